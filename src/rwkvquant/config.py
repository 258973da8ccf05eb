"""Options, made once at the border, passed whole, and saved in the packed file. A misspelt option is an error."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import ConfigError

METHODS = ("rtn", "gptq")
CLIP_SEARCHES = ("none", "weight", "hessian")
GROUP_SIZES = (32, 64, 128)
SCALE_BITS = (8, 16)
DEFAULT_BITS = 3.275


@dataclass(frozen=True)
class GridConfig:
    """A uniform grid: what RTN and GPTQ round to.

    scale_bits 8: one uint8 per group and one float16 per row; 16: one float16 per group.
    """

    bits: int = 3
    group_size: int = 64
    symmetric: bool = False
    scale_bits: int = 8

    def __post_init__(self) -> None:
        _require("bits", self.bits, range(1, 9))
        _require("scale_bits", self.scale_bits, SCALE_BITS)
        if self.group_size < 1:
            raise ConfigError(f"group_size must be at least 1; got {self.group_size}")


@dataclass(frozen=True)
class CalibrationConfig:
    """Which text, and how much of it. `path` None means the text that comes with the package."""

    path: str | None = None
    rows: int = 128
    length: int = 512
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("rows", "length", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"calibration {name} must be at least 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class QuantizeConfig:
    """All options of `quantize`. `bits` is a budget for stored bits; `code_bits` is one plain grid for every matrix.

    Give at most one of the two; with neither, the budget is DEFAULT_BITS, or the smallest reachable if that is larger.
    """

    bits: float | None = None
    code_bits: int | None = None
    method: str = "gptq"
    group_size: int | None = None  # the next three go with code_bits: 64, asymmetric and 8 unless given
    symmetric: bool | None = None
    scale_bits: int | None = None
    clip_search: str | None = None  # None: "hessian" for gptq, "weight" for rtn, which then needs no calibration
    act_order: bool = True
    damping: float = 0.05
    head_bits: int = 6
    emb_bits: int = 8
    vector_bits: int = 8
    tensor_bits: tuple[str, ...] = ()  # "PATTERN=BITS", see selection/policy.py
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    tokenizer: str | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.calibration, str):  # QuantizeConfig(calibration="text.txt") reads well
            object.__setattr__(self, "calibration", CalibrationConfig(path=self.calibration))
        _require("method", self.method, METHODS)
        if self.clip_search is None:
            object.__setattr__(self, "clip_search", "weight" if self.method == "rtn" else "hessian")
        _require("clip_search", self.clip_search, CLIP_SEARCHES)
        _require("device", self.device.partition(":")[0], ("cpu", "cuda"))
        if self.group_size is not None:
            _require("group_size", self.group_size, GROUP_SIZES)
        if self.scale_bits is not None:
            _require("scale_bits", self.scale_bits, SCALE_BITS)
        _require("vector_bits", self.vector_bits, (8, 16))
        _require("head_bits", self.head_bits, (*range(2, 9), 16))
        _require("emb_bits", self.emb_bits, (*range(2, 9), 16))
        if self.bits is not None and self.code_bits is not None:
            raise ConfigError("give bits (a budget) or code_bits (one grid for all matrices), not both")
        if self.code_bits is not None:
            _require("code_bits", self.code_bits, range(2, 9))
        elif (self.group_size, self.symmetric, self.scale_bits) != (None, None, None):
            raise ConfigError("group_size, symmetric and scale_bits go with code_bits; a budget of bits chooses the grids itself")
        if isinstance(self.tensor_bits, str):
            object.__setattr__(self, "tensor_bits", (self.tensor_bits,))
        if self.bits is not None and not 0 < self.bits <= 16:
            raise ConfigError(f"bits must lie above 0 and at most at 16; got {self.bits}")
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0; got {self.seed}")
        if not 0 <= self.damping < 10:
            raise ConfigError(f"damping must lie in [0, 10); got {self.damping}")

    @property
    def plain_grid(self) -> GridConfig:
        """The grid of every matrix where `code_bits` is given."""
        assert self.code_bits is not None
        default = GridConfig()
        return GridConfig(
            self.code_bits, self.group_size or default.group_size, bool(self.symmetric), self.scale_bits or default.scale_bits
        )

    @property
    def needs_calibration(self) -> bool:
        return self.method == "gptq" or self.clip_search == "hessian"

    @classmethod
    def from_dict(cls, options: dict[str, Any]) -> QuantizeConfig:
        """Build from plain JSON. Raises ConfigError and names the nearest option for one that does not exist."""
        known = dict(options)
        if isinstance(known.get("calibration"), dict):
            known["calibration"] = CalibrationConfig(**_checked(CalibrationConfig, known["calibration"]))
        if "tensor_bits" in known:
            known["tensor_bits"] = tuple(known["tensor_bits"])
        return cls(**_checked(cls, known))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _checked(kind: type, options: dict[str, Any]) -> dict[str, Any]:
    names = [f.name for f in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Known options: {', '.join(names)}."
            raise ConfigError(f"there is no option {name}.{hint}")
    return options


def _require(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ConfigError(f"{name} must be one of {shown}; got {value}")
