"""A recipe: all that will run, complete. Methods make it from a request; the pipeline reads nothing else; the packed file keeps it.

No field is None and none is filled in from another, so `dataclasses.replace` gives a recipe that differs in what was replaced and in
nothing else, or raises ConfigError where the parts do not go together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.config import CHOICES, PROXY_READINGS, VECTOR_CODEBOOKS, CalibrationConfig, check_types, require
from rwkvquant.errors import ConfigError
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.recipes.setting import Setting

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Chooser:
    """How each matrix gets one of the candidates.

    rule: which kinds it may be of. "error" leaves all open, "uniform" and "codebook" leave one; "algorithm1", "fixed" and "incoherence"
    are the papers' rules. proxy: the reading of the proxies that the first two of these use. coarse_share, fine_share: C and F of
    Algorithm 1. bits: a budget of stored bits per weight for what the rule leaves, 0 for none: the candidate of the least loss. required:
    whether a budget out of reach is an error; otherwise the smallest reachable is used. paper_count: tell the paper's count of bits.
    """

    rule: str = "error"
    proxy: str = "paper"
    coarse_share: float = 0.5
    fine_share: float = 0.2
    bits: float = 0.0
    required: bool = False
    paper_count: bool = False

    def __post_init__(self) -> None:
        check_types(self)
        require("choice", self.rule, CHOICES)
        require("proxy", self.proxy, PROXY_READINGS)
        if not (0 <= self.coarse_share <= 1 and 0 <= self.fine_share <= 1):
            raise ConfigError(f"shares must lie in 0 to 1; got {self.coarse_share} and {self.fine_share}")
        if not 0 <= self.bits <= 16:
            raise ConfigError(f"bits must lie above 0 and at most at 16; got {self.bits}")


@dataclass(frozen=True)
class Recipe:
    """What runs. Settings in `head`, `embedding` and `vectors` are one, or none where 16 bits stay.

    candidates: what a matrix may become, uniform grids first. tensor_bits: "PATTERN=BITS" narrows them for some matrices. measured: whether
    there is a pass 1, which tries all candidates on full-precision inputs. calibrated: whether text is read at all. correction: how much of
    earlier errors the block's last products make up for. fall_back: whether text is kept out to judge error feedback by, and a tensor
    does without where that is better. vector_weights: the reading that weighs the elements of vectors with codebooks. calibration.path
    and tokenizer "": what comes with the package, and with the checkpoint.
    """

    method: str
    candidates: tuple[Setting, ...]
    chooser: Chooser = field(default_factory=Chooser)
    quantizer: QuantizerOptions = field(default_factory=QuantizerOptions)
    transform: str = "none"
    tensor_bits: tuple[str, ...] = ()
    measured: bool = False
    calibrated: bool = True
    correction: float = 0.0
    fall_back: bool = True
    head: tuple[Setting, ...] = ()
    embedding: tuple[Setting, ...] = ()
    vectors: tuple[Setting, ...] = ()
    vector_weights: str = "none"
    calibration: CalibrationConfig = field(default_factory=lambda: CalibrationConfig(path=""))
    tokenizer: str = ""
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        if self.calibration.path is None:
            object.__setattr__(self, "calibration", dataclasses.replace(self.calibration, path=""))
        if not self.candidates:
            raise ConfigError(f"a recipe needs at least one candidate; the method {self.method} gave none")
        for name in ("head", "embedding", "vectors"):
            if len(getattr(self, name)) > 1:
                raise ConfigError(f"{name} takes one setting, or none for 16 bits; got {len(getattr(self, name))}")
        require("transform", self.transform, ("none",))
        require("vector_weights", self.vector_weights, ("none", *VECTOR_CODEBOOKS))
        require("device", self.device.partition(":")[0], DEVICES)
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0; got {self.seed}")
        if not 0 <= self.correction <= 1:
            raise ConfigError(f"correction must lie in 0 to 1; got {self.correction}")
        readers = {
            "error feedback": any(setting.feedback for setting in (*self.candidates, *self.head)),
            "a pass 1": self.measured,
            "correction": self.correction > 0,
            "vector_weights": self.vector_weights != "none",
        }
        if not self.calibrated and any(readers.values()):
            raise ConfigError(f"{' and '.join(name for name, reads in readers.items() if reads)} needs calibration text")
        if not self.measured and len(self.candidates) > 1 and self.chooser.rule in ("algorithm1", "fixed", "incoherence"):
            raise ConfigError(f"the choice {self.chooser.rule} needs a pass 1")
        if any(setting.kind == "codebook" for setting in self.vectors) != (self.vector_weights != "none"):
            raise ConfigError("vectors with codebooks need vector_weights, and others have none")

    @property
    def one_setting(self) -> bool:
        """Whether there is nothing to choose: --tensor-bits then only changes the bits."""
        return len(self.candidates) == 1

    def to_json(self) -> dict[str, Any]:
        """Plain JSON; `from_json` makes an equal recipe of it."""
        found: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if each.name in SETTINGS:
                found[each.name] = [setting.to_json() for setting in value]
            elif each.name in PARTS:
                found[each.name] = dataclasses.asdict(value)
            else:
                found[each.name] = list(value) if isinstance(value, tuple) else value
        return found

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Recipe:
        """Raises ConfigError for what is no recipe."""
        try:
            values = dict(found)
            values |= {name: tuple(Setting.from_json(setting) for setting in found[name]) for name in SETTINGS}
            values |= {name: kind(**found[name]) for name, kind in PARTS.items()}
            return cls(**values | {"tensor_bits": tuple(found["tensor_bits"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is not a recipe: {error}") from None


SETTINGS = ("candidates", "head", "embedding", "vectors")
PARTS: dict[str, Any] = {"chooser": Chooser, "quantizer": QuantizerOptions, "calibration": CalibrationConfig}
