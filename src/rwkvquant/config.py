"""Options, made once at the border, passed whole, and saved in the packed file. A misspelt option is an error."""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import ConfigError

HYBRIDS = ("rwkvquant", "paper", "readme")  # choose between uniform grids (SQ) and codebooks (VQ) for each tensor
METHODS = (*HYBRIDS, "gptq", "rtn", "gptvq", "kmeans")
STYLES = ("tuned", "paper")  # of the plain methods: as we would, or as RWKVQuant ran them to compare with
CHOICES = ("error", "uniform", "codebook", "algorithm1", "fixed", "incoherence")
PROXY_READINGS = ("paper", "unique", "dithered")
VECTOR_CODEBOOKS = ("mean_square", "paper", "authors")
CLIP_SEARCHES = ("none", "weight", "hessian")
CODEBOOK_SIZES = (64, 128, 256, 512)  # weights that share a codebook: 2, 4, 8 or 16 rows x 32 columns
GROUP_SIZES = (32, 64, 128)
SCALE_BITS = (8, 16)
DEFAULT_BITS = 3.275
RESUME = ("auto", "required", "never")  # what to do with the work directory of a job that did not end


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
    """All options of `quantize`. `bits` is a budget for stored bits; `code_bits` is one plain setting for every matrix.

    Give at most one of the two; with neither, the budget is DEFAULT_BITS, or the smallest reachable if that is larger. For the method
    `paper`, `bits` are the paper's own count (3.25 to 3.5), which says nothing about stored bits; `readme` takes none.
    """

    bits: float | None = None
    code_bits: int | None = None
    method: str = "rwkvquant"
    style: str = "tuned"
    choice: str | None = None  # SQ or VQ for each tensor, in hybrids. None: "error"; paper: "algorithm1"; readme: "incoherence"
    proxy: str = "paper"  # the reading of the proxies, for the choices "algorithm1" and "fixed"
    group_size: int | None = None  # these three go with code_bits and uniform grids: 64, asymmetric and 8 unless given
    symmetric: bool | None = None
    scale_bits: int | None = None
    codebook_size: int | None = None  # these three go with code_bits and codebooks: 128 weights, rank 0, dimension 1 unless given
    codebook_rank: int | None = None
    codebook_dim: int | None = None
    clip_search: str | None = None  # None: "hessian" for what is calibrated, "weight" for rtn, "none" in the style of the paper
    act_order: bool | None = None  # None: True, but not in the style of the paper
    damping: float | None = None  # None: 0.05, or 0.01 in the style of the paper
    correction: float | None = None  # None: 0.5 for rwkvquant, else 0
    fall_back: bool | None = None  # None: True, but not in the style of the paper
    head_bits: int = 6
    emb_bits: int = 8
    vector_bits: int = 8
    vector_codebook: str | None = None  # the weights of a 3-bit codebook for element-wise vectors; None is a uniform grid
    tensor_bits: tuple[str, ...] = ()  # "PATTERN=BITS", see selection/policy.py
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    tokenizer: str | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.calibration, str):  # QuantizeConfig(calibration="text.txt") reads well
            object.__setattr__(self, "calibration", CalibrationConfig(path=self.calibration))
        if isinstance(self.tensor_bits, str):
            object.__setattr__(self, "tensor_bits", (self.tensor_bits,))
        require("method", self.method, METHODS)
        require("style", self.style, STYLES)
        self._fill_in()
        self._check_choices()
        self._check_bits()
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0; got {self.seed}")
        for name, low, high in (("damping", 0, 10), ("correction", 0, 1)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} must lie in {low} to {high}; got {getattr(self, name)}")

    def _fill_in(self) -> None:
        """Every None that stands for another option's usual value."""
        if self.method in ("paper", "readme"):
            object.__setattr__(self, "style", "paper")
        tuned = self.style == "tuned"
        usual: dict[str, Any] = {
            "clip_search": "none" if not tuned else "weight" if self.method == "rtn" else "hessian",
            "act_order": tuned,
            "damping": 0.05 if tuned else 0.01,
            "correction": 0.5 if self.method == "rwkvquant" else 0.0,
            "fall_back": tuned,
        }
        if self.method in HYBRIDS:
            usual["choice"] = {"rwkvquant": "error", "paper": "algorithm1", "readme": "incoherence"}[self.method]
        for name, value in usual.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def _check_choices(self) -> None:
        if self.choice is not None:
            if self.method not in HYBRIDS:
                raise ConfigError(f"choice goes with the methods {', '.join(HYBRIDS)}; {self.method} has nothing to choose")
            require("choice", self.choice, CHOICES)
        require("proxy", self.proxy, PROXY_READINGS)
        require("clip_search", self.clip_search, CLIP_SEARCHES)
        require("device", self.device.partition(":")[0], ("cpu", "cuda"))
        require("head_bits", self.head_bits, (*range(2, 9), 16))
        require("emb_bits", self.emb_bits, (*range(2, 9), 16))
        require("vector_bits", self.vector_bits, (3, 8, 16))
        if self.vector_codebook is not None:
            require("vector_codebook", self.vector_codebook, VECTOR_CODEBOOKS)
            if self.vector_bits != 3:
                raise ConfigError(f"vector_codebook goes with vector_bits 3; got {self.vector_bits}")
        for name, allowed in (("group_size", GROUP_SIZES), ("scale_bits", SCALE_BITS), ("codebook_size", CODEBOOK_SIZES)):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), allowed)
        if self.codebook_rank is not None:
            require("codebook_rank", self.codebook_rank, range(9))
        if self.codebook_dim is not None:
            require("codebook_dim", self.codebook_dim, (1, 2))

    def _check_bits(self) -> None:
        if self.bits is not None and self.code_bits is not None:
            raise ConfigError("give bits (a budget) or code_bits (one setting for all matrices), not both")
        if self.bits is not None and not 0 < self.bits <= 16:
            raise ConfigError(f"bits must lie above 0 and at most at 16; got {self.bits}")
        if self.method == "paper" and self.bits is not None and not 3.25 <= self.bits <= 3.5:
            raise ConfigError(f"bits of the method paper are its own count, from 3.25 (all VQ) to 3.5 (all SQ); got {self.bits}")
        if self.method == "readme" and self.bits is not None:
            raise ConfigError("the method readme is one fixed setting; it takes no bits")
        if self.method in HYBRIDS and self.code_bits is not None:
            raise ConfigError(f"code_bits goes with a plain method; {self.method} chooses for each tensor. Try --bits")
        uniform, codebook = ("group_size", "symmetric", "scale_bits"), ("codebook_size", "codebook_rank", "codebook_dim")
        for names, methods in ((uniform, ("rtn", "gptq")), (codebook, ("kmeans", "gptvq"))):
            given = [name for name in names if getattr(self, name) is not None]
            if given and (self.code_bits is None or self.method not in methods):
                raise ConfigError(f"{', '.join(given)} go with code_bits and the methods {' and '.join(methods)}; a budget chooses itself")
        if self.code_bits is not None:
            require("code_bits", self.code_bits, range(2, 9) if self.method in ("rtn", "gptq") else (2, 3, 4))
            self._check_codebooks(self.code_bits)

    def _check_codebooks(self, bits: int) -> None:
        if self.codebook_dim == 2 and (self.codebook_size, self.codebook_rank) != (None, None):
            raise ConfigError("codebook_size and codebook_rank go with codebook_dim 1; a table of pairs serves whole rows, uncompressed")
        if self.codebook_size == 64 and bits == 4:
            raise ConfigError("codebook_size must be at least 128 where code_bits are 4; got 64")
        if self.codebook_rank is not None and self.codebook_rank >= 2**bits:
            raise ConfigError(f"codebook_rank must be below the {2**bits} centroids of {bits} bits; got {self.codebook_rank}")

    @property
    def needs_calibration(self) -> bool:
        plain = self.method == "kmeans" or (self.method == "rtn" and self.clip_search != "hessian")
        return not plain or (self.method == "kmeans" and self.style == "tuned") or self.vector_codebook is not None

    @property
    def measures_candidates(self) -> bool:
        """Whether there is a pass 1, which tries all candidates on full-precision inputs."""
        return self.method in HYBRIDS

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


def require(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ConfigError(f"{name} must be one of {shown}; got {value}")
