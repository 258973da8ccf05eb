"""What a user asks for, passed whole, and saved in the packed file. A misspelt option is an error.

A request holds what the user said, and None for the rest. Nothing is filled in here, so `dataclasses.replace` is always safe. Only types
are checked here: each method checks the values of its options (recipes/).
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import ConfigError

STYLES = ("tuned", "paper")  # our own settings, or those of the methods that RWKVQuant compared with
CHOICES = ("error", "uniform", "codebook", "algorithm1", "fixed", "incoherence", "share")
PROXY_READINGS = ("paper", "unique", "dithered")
VECTOR_CODEBOOKS = ("mean_square", "paper", "authors")
CLIP_SEARCHES = ("none", "weight", "hessian")
CODEBOOK_SIZES = (64, 128, 256, 512)  # weights that share a codebook: 2, 4, 8 or 16 rows x 32 columns
GROUP_SIZES = (32, 64, 128)
SCALE_BITS = (8, 16)
DEFAULT_BITS = 3.275
DENSITY = 0.125  # of the squared ReLUs of random models: what a released model of 7.2B parameters has on average
HEAD_BITS, EMB_BITS, VECTOR_BITS = 6, 8, 8  # the defaults
FORWARD_DTYPES = ("auto", "float32", "bfloat16")  # in which the text runs through the blocks (pipeline/forward.py)
GGUF_TYPES = ("q8_0", "q4_K", "q4_0", "q3_K")  # that we round onto (pipeline/gguf.py)
RESUME = ("auto", "required", "never")  # what to do with the work directory of an unfinished job


@dataclass(frozen=True)
class CalibrationConfig:
    """Which text, and how much of it: `rows` of `length` tokens, read `batch` rows at a time. `path` None: the text in the package.

    For a model for images, `path` is a folder or an .npz of images, and `rows` counts images.
    """

    path: str | None = None
    rows: int = 128
    length: int = 512
    batch: int = 8

    def __post_init__(self) -> None:
        _plain_path(self, "path")
        check_types(self, "calibration ")
        for name in ("rows", "length", "batch"):
            if getattr(self, name) < 1:
                raise ConfigError(f"calibration {name} must be at least 1; got {getattr(self, name)}")


@dataclass(frozen=True)
class QuantizeRequest:
    """All options of `quantize`; None means "not said". `rwkvquant quantize --help` says what each means, and which methods have it.

    Raises ConfigError for a value of the wrong type. Whether the method takes that value is checked by recipes.recipe_for, which every
    job calls first.
    """

    bits: float | None = None  # a budget of stored bits per weight; with group_size or the like, the bits of a code
    code_bits: int | None = None  # one setting for every matrix
    method: str = "rwkvquant"
    style: str | None = None
    choice: str | None = None
    proxy: str | None = None
    group_size: int | None = None
    symmetric: bool | None = None
    scale_bits: int | None = None
    codebook_size: int | None = None
    codebook_rank: int | None = None
    codebook_dim: int | None = None
    clip_search: str | None = None
    act_order: bool | None = None
    damping: float | None = None
    correction: float | None = None
    fall_back: bool | None = None
    head_bits: int | None = None
    emb_bits: int | None = None
    vector_bits: int | None = None
    vector_codebook: str | None = None
    own_options: tuple[str, ...] = ()  # "NAME=VALUE" for options without a field here, which methods of other packages may have
    tensor_bits: tuple[str, ...] = ()  # "PATTERN=BITS", see selection/policy.py
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    tokenizer: str | None = None
    adapter: str | None = None  # "PATH", "PATH,alpha=NUMBER" or "PATH,init=PATH", see checkpoints/adapter.py
    forward_dtype: str = "auto"  # or "float32", "bfloat16": in which the text runs through the blocks
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.calibration, str | os.PathLike):  # QuantizeRequest(calibration="text.txt") reads well
            object.__setattr__(self, "calibration", CalibrationConfig(path=os.fspath(self.calibration)))
        for name in ("own_options", "tensor_bits"):
            value = getattr(self, name)
            if isinstance(value, str):  # one of them, not its letters
                object.__setattr__(self, name, (value,))
            elif isinstance(value, list):
                object.__setattr__(self, name, tuple(value))
        _plain_path(self, "tokenizer")
        _plain_path(self, "adapter")
        check_types(self)

    @classmethod
    def from_dict(cls, options: Mapping[str, Any]) -> QuantizeRequest:
        """Build from plain JSON. Raises ConfigError for an unknown option, and names the nearest one."""
        known = _checked(cls, options)
        if isinstance(known.get("calibration"), Mapping):
            known["calibration"] = CalibrationConfig(**_checked(CalibrationConfig, known["calibration"]))
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, without options that files did not have at first where they say nothing."""
        nothing = {"own_options": (), "adapter": None, "forward_dtype": "auto"}
        unsaid = [name for name, value in nothing.items() if getattr(self, name) in (value, "")]
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in unsaid}


QuantizeConfig = QuantizeRequest  # its older name, which scripts use


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "str": (lambda value: isinstance(value, str), "a string"),
    "int": (_whole, "a whole number"),
    "float": (lambda value: _whole(value) or (isinstance(value, float) and math.isfinite(value)), "a number"),
    "bool": (lambda value: isinstance(value, bool), "true or false"),
    "tuple[str, ...]": (lambda value: isinstance(value, tuple) and all(isinstance(v, str) for v in value), "a list of strings"),
    "CalibrationConfig": (lambda value: isinstance(value, CalibrationConfig), "a CalibrationConfig, or the path of a text"),
}


def check_types(options: Any, prefix: str = "") -> None:
    """Raises ConfigError for the first field of a dataclass that is not of its type. 3.0 and True are not whole numbers."""
    for each in dataclasses.fields(options):
        kind, value = str(each.type).removesuffix(" | None"), getattr(options, each.name)
        if kind not in _KINDS or (value is None and kind != each.type):
            continue
        is_one, words = _KINDS[kind]
        if not is_one(value):
            shown = repr(value)
            raise ConfigError(f"{prefix}{each.name} must be {words}; got {shown if len(shown) < 80 else shown[:77] + '...'}")


def _plain_path(options: Any, name: str) -> None:
    value = getattr(options, name)
    if isinstance(value, os.PathLike):
        object.__setattr__(options, name, os.fspath(value))


def _checked(kind: type, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise ConfigError(f"options are names with values; got {type(options).__name__}")
    names = [f.name for f in dataclasses.fields(kind)]
    for name in options:
        if name not in names:
            near = difflib.get_close_matches(str(name), names, n=1)
            hint = f" Did you mean {near[0]}?" if near else f" Known options: {', '.join(names)}."
            raise ConfigError(f"there is no option {name}.{hint}")
    return dict(options)


def require(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        shown = f"{allowed[0]} to {allowed[-1]}" if isinstance(allowed, range) else ", ".join(map(str, allowed))
        raise ConfigError(f"{name} must be one of {shown}; got {value}")
