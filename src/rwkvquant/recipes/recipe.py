"""A recipe: everything that will run. A method makes it from a request; the pipeline reads nothing else; the packed file keeps it.

No field is None, and none is filled in from another. So `dataclasses.replace` changes only the fields that it names, or raises
ConfigError where the parts do not fit together.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.config import CHOICES, FORWARD_DTYPES, PROXY_READINGS, VECTOR_CODEBOOKS, CalibrationConfig, check_types, require
from rwkvquant.errors import ConfigError
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.algorithm1 import USUAL
from rwkvquant.selection.proxy import ORDERS
from rwkvquant.selection.selectors import SELECTORS
from rwkvquant.transforms import transform_named, transform_names

DEVICES = ("cpu", "cuda")
MOST_GROUPS = 64  # each has a matrix of second moments


@dataclass(frozen=True)
class Chooser:
    """How each matrix gets one of the candidates.

    rule: which kinds of codec it may have. "error" allows all, "uniform" and "codebook" one; "algorithm1", "fixed" and "incoherence" are
    the papers' rules; "share" gives uniform grids to `sq_share` of the weights, in the order of a `selector` (selection/selectors/).
    proxy: the reading of the gaps between weights. coarse_share, fine_share, order: C, F and K of Algorithm 1. tau_c, tau_f: the
    thresholds of the rule "fixed".
    bits: a budget of stored bits per weight, spent among the candidates that the rule allows; 0: no budget, the least loss wins.
    required: whether a budget out of reach is an error; if not, the smallest reachable is used. paper_count: report the paper's own
    count of bits.
    """

    rule: str = "error"
    proxy: str = "paper"
    coarse_share: float = 0.5
    fine_share: float = 0.2
    bits: float = 0.0
    required: bool = False
    paper_count: bool = False
    order: int = 4
    selector: str = "nats"
    sq_share: float = 0.5
    tau_c: float = USUAL.coarse
    tau_f: float = USUAL.fine

    def __post_init__(self) -> None:
        check_types(self)
        require("choice", self.rule, CHOICES)
        require("proxy", self.proxy, PROXY_READINGS)
        require("order", self.order, ORDERS)
        require("selector", self.selector, tuple(SELECTORS))
        shares = self.coarse_share, self.fine_share, self.sq_share
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError("coarse_share, fine_share and sq_share must be from 0 to 1; got {}, {} and {}".format(*shares))
        if not (0 <= self.tau_c < math.inf and 0 <= self.tau_f < math.inf):
            raise ConfigError(f"tau_c and tau_f must be finite and not below 0; got {self.tau_c} and {self.tau_f}")
        if not 0 <= self.bits <= 16:
            raise ConfigError(f"bits must be from 0 (no budget) to 16; got {self.bits}")


@dataclass(frozen=True)
class Recipe:
    """What runs. `head`, `embedding` and `vectors` hold one setting each, or none: then 16 bits stay.

    candidates: what a matrix may become, uniform grids first. transform: of the inputs of projections and LoRA factors; text_transform: the
    same in language models alone. folded: whether a transform becomes part of what makes the input, where the architecture says that it
    can; elsewhere it is applied at run time. balanced: whether input channels that are far out of line are scaled to the size
    of the others first (quantizers/shared/balance.py).
    sparse_input: candidates for matrices whose input is never negative and mostly zero; none: they are like the others. nonnegative_input:
    the same for matrices whose input is never negative, but not mostly zero. for_images: more candidates of models for images.
    tensor_bits: "PATTERN=BITS" narrows them for some matrices. measured: whether there is a pass 1, which tries all candidates on full-
    precision inputs. calibrated: whether text is read at all. correction: the share of earlier errors that the last products of a block
    correct, or every product where the quantisers are gptaq or qronos. guided: groups of rows of a matrix whose second moments are
    weighted by their gradients, for quantisers that use them, or 0. fall_back: whether some text is kept out to test error feedback on;
    a tensor is rounded without it where that loses less. vector_weights: how the elements of vectors with codebooks are weighted.
    forward_dtype: the numbers in which the text runs through the blocks; the job replaces "auto" before it begins. An empty
    calibration.path means the text in the package, an empty tokenizer that of the checkpoint.
    """

    method: str
    candidates: tuple[Setting, ...]
    chooser: Chooser = field(default_factory=Chooser)
    quantizer: QuantizerOptions = field(default_factory=QuantizerOptions)
    transform: str = "none"
    text_transform: str = "none"
    folded: bool = False
    balanced: bool = False
    sparse_input: tuple[Setting, ...] = ()
    nonnegative_input: tuple[Setting, ...] = ()
    for_images: tuple[Setting, ...] = ()
    tensor_bits: tuple[str, ...] = ()
    measured: bool = False
    calibrated: bool = True
    correction: float = 0.0
    guided: int = 0
    fall_back: bool = True
    head: tuple[Setting, ...] = ()
    embedding: tuple[Setting, ...] = ()
    vectors: tuple[Setting, ...] = ()
    vector_weights: str = "none"
    calibration: CalibrationConfig = field(default_factory=lambda: CalibrationConfig(path=""))
    tokenizer: str = ""
    adapter: str = ""
    forward_dtype: str = "float32"
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
        require("transform", self.transform, transform_names())
        require("text_transform", self.text_transform, transform_names())
        require("vector_weights", self.vector_weights, ("none", *VECTOR_CODEBOOKS))
        require("forward_dtype", self.forward_dtype, FORWARD_DTYPES)
        require("device", self.device.partition(":")[0], DEVICES)
        if self.seed < 0:
            raise ConfigError(f"seed must be at least 0; got {self.seed}")
        if not 0 <= self.guided <= MOST_GROUPS:
            raise ConfigError(f"guided must be from 0 to {MOST_GROUPS} groups of rows; got {self.guided}")
        if not 0 <= self.correction <= 1:
            raise ConfigError(f"correction must be from 0 to 1; got {self.correction}")
        readers = {
            "error feedback": any(setting.feedback for setting in (*self.candidates, *self.own_candidates, *self.head)),
            "a pass 1": self.measured,
            "correction": self.correction > 0,
            "guided": self.guided > 0,
            "vector_weights": self.vector_weights != "none",
        }
        if not self.calibrated and any(readers.values()):
            raise ConfigError(f"calibrated must be true: {' and '.join(name for name, reads in readers.items() if reads)} needs text")
        if self.transform != "none" and self.text_transform != "none":
            raise ConfigError(f"text_transform must be none where there is a transform: an input has one; got {self.text_transform}")
        if self.folded and not (transform_named(self.transform).fitted or transform_named(self.transform).mixes):
            raise ConfigError(f"folded must be false where the transform is not one that is fitted or mixes channels; got {self.transform}")
        for name in (self.transform, self.text_transform):
            if self.measured and transform_named(name).fitted:
                raise ConfigError(f"measured must be false with the transform {name}: it is fitted in pass 2, so a pass 1 cannot know it")
            if self.balanced and name not in ("none", "hadamard"):
                raise ConfigError(f"balanced must be false where the transform is not none or hadamard; got {name}")
        if not self.measured and len(self.candidates) > 1 and self.chooser.rule not in ("error", "uniform", "codebook"):
            raise ConfigError(f"measured must be true: the choice {self.chooser.rule} needs a pass 1")
        if any(setting.kind == "codebook" for setting in self.vectors) != (self.vector_weights != "none"):
            raise ConfigError("vectors with codebooks need vector_weights; for other vectors they must be none")

    @property
    def one_setting(self) -> bool:
        """Whether there is nothing to choose: --tensor-bits then only changes the bits."""
        return len(self.candidates) == 1 and not self.own_candidates

    @property
    def reads_drift(self) -> bool:
        """Whether a quantiser needs to know how far its input has moved from the full-precision model's."""
        return any(setting.drift for setting in (*self.candidates, *self.own_candidates))

    @property
    def own_candidates(self) -> tuple[Setting, ...]:
        """Those that only matrices with some kind of input, or of some models, have."""
        return self.sparse_input + self.nonnegative_input + self.for_images

    def transform_for(self, modality: str) -> str:
        """The transform of the inputs in a model of this modality, "text" or "image"."""
        return self.text_transform if modality == "text" and self.transform == "none" else self.transform

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, from which `from_json` makes an equal recipe."""
        fields: dict[str, Any] = {}
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if NOTHING.get(each.name) == value:  # as in files that were written before there were any
                continue
            if each.name in SETTINGS:
                fields[each.name] = [setting.to_json() for setting in value]
            elif each.name in PARTS:
                kept = dataclasses.asdict(value).items()
                fields[each.name] = {name: part for name, part in kept if LATER.get((each.name, name), ...) != part}
            else:
                fields[each.name] = list(value) if isinstance(value, tuple) else value
        return fields

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Recipe:
        """Raises ConfigError for what is not a recipe."""
        try:
            values = dict(fields)
            settings = {"sparse_input": [], "nonnegative_input": [], "for_images": [], **fields}
            values |= {name: tuple(Setting.from_json(setting) for setting in settings[name]) for name in SETTINGS}
            values |= {name: kind(**fields[name]) for name, kind in PARTS.items()}
            return cls(**values | {"tensor_bits": tuple(fields["tensor_bits"])})
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"this is not a recipe: {error}") from None


SETTINGS = ("candidates", "sparse_input", "nonnegative_input", "for_images", "head", "embedding", "vectors")
NOTHING: dict[str, Any] = {
    "adapter": "",
    "text_transform": "none",
    "folded": False,
    "balanced": False,
    "sparse_input": (),
    "nonnegative_input": (),
    "for_images": (),
    "forward_dtype": "float32",
    "guided": 0,
}
# Fields of parts that files did not have at first, with the values that say what was done then.
LATER: dict[tuple[str, str], Any] = {
    ("chooser", "order"): 4,
    ("chooser", "selector"): "nats",
    ("chooser", "sq_share"): 0.5,
    ("chooser", "tau_c"): 1.54,
    ("chooser", "tau_f"): 30.0,
}
PARTS: dict[str, Any] = {"chooser": Chooser, "quantizer": QuantizerOptions, "calibration": CalibrationConfig}
