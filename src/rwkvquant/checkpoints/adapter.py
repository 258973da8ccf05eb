"""An adapter of fine-tuning, merged into a checkpoint when a tensor is read. The kinds are in adapter_kinds.py.

    RWKV-PEFT   a .pth: blocks.0.att.key.lora_A, .lora_B, .disha, .bone
    PEFT        a directory: adapter_config.json, and adapter_model.safetensors or .bin
                with base_model.model.blocks.0.att.key.lora_A.weight, .lora_B.weight, .bone_block, .miss_block

Other tensors in the file are whole tensors that were trained too, such as norms: they replace the checkpoint's.
An adapter's parts are read when they are needed; no more than one merged tensor is in memory.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture
from rwkvquant.checkpoints import adapter_kinds
from rwkvquant.checkpoints.conversions import AS_IT_IS, TRANSPOSED, VECTOR, Conversion, shape_after
from rwkvquant.checkpoints.json_object import parse_object
from rwkvquant.checkpoints.names import PREFIXES, name_table
from rwkvquant.checkpoints.tensor_info import TensorFile, TensorInfo
from rwkvquant.checkpoints.wrappers import ADAPTER, bare_names
from rwkvquant.errors import CheckpointError

Array = NDArray[np.float32]
CONFIG = "adapter_config.json"
FILES = ("adapter_model.safetensors", "adapter_model.bin")
MAX_CONFIG_BYTES = 1 << 20
LAYOUTS = ("blinkdl", "fla", "hf")
TYPES = ("LORA", "BONE", "MISS")
PART = re.compile(r"(.+)\.(lora_A|lora_B|bone_block|miss_block|bone|disha)(?:\.weight)?")
INITIAL_PART = re.compile(r"(.+)\.init_(lora_A|lora_B)(?:\.weight)?")
ORDINARY_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")  # of LoRA: the base model is as it was
UNKNOWN_PARTS = {"use_dora": "DoRA", "lora_bias": "biases", "alpha_pattern": "an alpha for each layer", "trainable_token_indices": "tokens"}
HELP = "give FILE,alpha=NUMBER with the lora_alpha of the training, or for PiSSA FILE,init=FILE with the adapter that it began with"


@dataclass(frozen=True)
class Spec:
    """What `--adapter` says: "PATH", "PATH,alpha=32" or "PATH,init=init_lora.pth"."""

    path: Path
    alpha: float | None = None
    init: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Spec:
        """Raises CheckpointError for an alpha that is not a positive number."""
        path, comma, value = text.rpartition(",alpha=")
        if comma:
            try:
                alpha = float(value)
            except ValueError:
                alpha = math.nan
            if not (math.isfinite(alpha) and alpha > 0):
                raise CheckpointError(f"the alpha of an adapter must be a positive number; got {value!r}")
            return cls(Path(path), alpha=alpha)
        path, comma, value = text.rpartition(",init=")
        return cls(Path(path), init=Path(value)) if comma else cls(Path(text))


@dataclass(frozen=True)
class Change:
    """What becomes of one tensor: `merge` takes our array and returns ours. `tensors` are the adapter's, for messages."""

    merge: Callable[[Array], Array]
    tensors: tuple[str, ...]


class Adapter:
    """An opened adapter. `changes`: our name of a tensor -> what becomes of it. `sha256`: of its `files` and its alpha.

    Raises CheckpointError for what is not an adapter, and unless every tensor of it fits a tensor of the model, by name and shape.
    """

    def __init__(
        self, spec: Spec, architecture: Architecture, tensors: dict[str, TensorInfo], open_one: Callable[[Path], TensorFile]
    ) -> None:
        """`tensors`: the model's, by our names. `open_one` opens a file with tensors."""
        self.path = spec.path
        self._architecture, self._tensors, self._alpha = architecture, tensors, spec.alpha
        try:
            main, config_path = _files(spec.path)
            self._config = _config(config_path) if config_path else {}
            if config_path and (spec.alpha or spec.init):
                raise CheckpointError(f"{CONFIG} gives the scale of this adapter; alpha and init are for files without one")
            self._file = _Named(open_one(main))
            self._init = _Named(open_one(spec.init)) if spec.init else None
            self.files = [file for file in (main, config_path, spec.init) if file is not None]
            self.sha256 = _sum(self.files, spec.alpha)
            self.changes = self._read_changes()
        except CheckpointError as error:
            raise CheckpointError(f"the adapter {spec.path}: {error}") from error
        except OSError as error:
            raise CheckpointError(f"the adapter {spec.path}: cannot be read ({error.strerror})") from error

    def merge(self, name: str, values: Array) -> Array:
        """`values` of our tensor `name` with the adapter merged, a new array or the same."""
        change = self.changes.get(name)
        if change is None:
            return values
        try:
            with np.errstate(over="ignore", invalid="ignore"):
                merged = np.ascontiguousarray(change.merge(values), dtype=np.float32)
        except CheckpointError as error:
            raise CheckpointError(f"the adapter {self.path}: {error}") from error
        if not (np.isfinite(merged.min()) and np.isfinite(merged.max())):
            raise CheckpointError(f"the adapter {self.path}: {name} is not finite after {change.tensors[0]} is merged")
        return merged

    def _read_changes(self) -> dict[str, Change]:
        modules: dict[str, dict[str, str]] = {}  # module -> part -> the tensor's name in the file
        whole: list[str] = []
        for name in self._file.tensors:
            if match := PART.fullmatch(name):
                modules.setdefault(match[1], {})[match[2]] = name
            elif match := ADAPTER.search(name):
                raise CheckpointError(f"the kinds LoRA, PiSSA and Bone (DiSHA, MiSS) can be merged; {name} is of the kind {match[1]}")
            else:
                whole.append(name)
        if not modules:
            raise CheckpointError(f"this file holds no adapter; its first tensor is {next(iter(self._file.tensors))}")
        changes: dict[str, Change] = {}
        for module, parts in modules.items():
            ours, change = self._change(module, parts)
            if ours in changes:
                raise CheckpointError(f"two of its modules change {ours}: {changes[ours].tensors[0]} and {next(iter(parts.values()))}")
            changes[ours] = change
        for name in whole:
            ours, conversion = self._our_name(name, name)
            if ours in changes:
                raise CheckpointError(f"it changes {ours} twice: by {name} and by {changes[ours].tensors[0]}")
            self._check(name, self._file.tensors[name].shape, conversion, ours)
            changes[ours] = Change(lambda _, name=name, conversion=conversion: conversion.read(self._file.read(name)), (name,))  # type: ignore[misc]
        return changes

    def _change(self, module: str, parts: dict[str, str]) -> tuple[str, Change]:
        """A module's change. Shapes are those of the Linear layer in training: (out, in)."""
        first = next(iter(parts.values()))
        ours, conversion = self._our_name(f"{module}.weight", first)
        if conversion not in (AS_IT_IS, TRANSPOSED) or len(self._tensors[ours].shape) != 2:
            raise CheckpointError(f"only matrices have adapters; {first} is for {ours}")
        shape = self._tensors[ours].shape[::-1] if conversion is TRANSPOSED else self._tensors[ours].shape
        on_linear = self._formula(parts, shape, ours)
        if conversion is TRANSPOSED:
            return ours, Change(lambda W: on_linear(W.T).T, tuple(parts.values()))
        return ours, Change(on_linear, tuple(parts.values()))

    def _formula(self, parts: dict[str, str], shape: tuple[int, ...], ours: str) -> Callable[[Array], Array]:
        kinds = set(parts)
        if kinds <= {"lora_A", "lora_B"}:
            for missing in {"lora_A", "lora_B"} - kinds:
                raise CheckpointError(f"a LoRA has lora_A and lora_B; {next(iter(parts.values()))} has no {missing}")
            return self._lora(parts["lora_A"], parts["lora_B"], shape, ours)
        if len(kinds) > 1:
            raise CheckpointError(f"one module has one adapter; here are {' and '.join(parts.values())}")
        if self._alpha is not None or self._init is not None:
            raise CheckpointError(f"alpha and init are for LoRA; {next(iter(parts.values()))} has neither")
        kind, name = next(iter(parts.items()))
        return self._bone(kind, name, shape, ours)

    def _lora(self, a: str, b: str, shape: tuple[int, ...], ours: str) -> Callable[[Array], Array]:
        out, width = shape[::-1] if self._config.get("fan_in_fan_out") else shape
        A, B = self._file.tensors[a].shape, self._file.tensors[b].shape
        rank = A[0]
        if (rank, width) != A:
            raise CheckpointError(f"{a} must have the shape (r, {width}) for {ours}; got {A}")
        if (out, rank) != B:
            raise CheckpointError(f"{b} must have the shape ({out}, {rank}) for {ours}, {rank} as in {a}; got {B}")
        read = self._file.read
        if self._init is not None:
            a0, b0 = self._initial(a, A), self._initial(b, B)
            first = self._init.read
            return lambda W: adapter_kinds.pissa(W, read(a), read(b), first(a0), first(b0))
        scale = self._scale(a, rank)
        if self._config.get("fan_in_fan_out"):
            return lambda W: adapter_kinds.lora(W.T, read(a), read(b), scale).T
        return lambda W: adapter_kinds.lora(W, read(a), read(b), scale)

    def _scale(self, name: str, rank: int) -> float:
        alpha = self._alpha if self._alpha is not None else self._config.get("lora_alpha")
        if alpha is None:
            raise CheckpointError(f"the file does not say its alpha, which scales {name}: {HELP}")
        r = self._config.get("r", rank)
        if r != rank and not self._config.get("rank_pattern"):
            raise CheckpointError(f"{CONFIG} says r = {r}, but {name} has the rank {rank}")
        return float(alpha) / (math.sqrt(rank) if self._config.get("use_rslora") else rank)

    def _initial(self, name: str, shape: tuple[int, ...]) -> str:
        """The tensor of the initial adapter that belongs to `name`. It may have the prefix init_."""
        assert self._init is not None
        candidates = [each for each in self._init.tensors if each == name or _without_init(each) == name]
        if len(candidates) != 1 or self._init.tensors[candidates[0]].shape != shape:
            found = f"{candidates[0]} has {self._init.tensors[candidates[0]].shape}" if candidates else "it is missing"
            raise CheckpointError(f"the adapter that training began with must have {name} with the shape {shape}; {found}")
        return candidates[0]

    def _bone(self, kind: str, name: str, shape: tuple[int, ...], ours: str) -> Callable[[Array], Array]:
        (out, width), D, read = shape, self._file.tensors[name].shape, self._file.read
        if len(D) == 3:
            r, by_columns = D[-1], kind in ("bone", "disha")
            side = width if by_columns else out
            if (side // r, r, r) != D or width % r or out % r:
                raise CheckpointError(f"{name} must have the shape ({side}/r, r, r) for {ours}, r must divide {out} and {width}; got {D}")
            return lambda W: adapter_kinds.bat(W, read(name), by_columns)
        if kind == "bone":
            raise CheckpointError(f"{name} is of an old version of Bone, which has several definitions; a .bone has three axes; got {D}")
        copies = 1
        if kind == "miss_block" and self._config.get("init_weights") == "mini" and len(D) == 2:
            copies = max(1, out // D[1])
        if len(D) != 2 or D[1] * copies != out or D[0] > width:
            raise CheckpointError(f"{name} must have the shape (r, {out}) for {ours}, r at most {width}; got {D}")
        return lambda W: adapter_kinds.bone(W, np.tile(read(name), (1, copies)))

    def _our_name(self, weight: str, shown: str) -> tuple[str, Conversion]:
        """Our name for a tensor's name in any layout. `shown` is the adapter's tensor, for the message."""
        for layout in LAYOUTS:
            table = name_table(layout, self._architecture)
            for prefix in ("", *PREFIXES) if table else ():
                bare = weight.removeprefix(prefix)
                block = re.fullmatch(re.escape(table.block) + r"([0-9]{1,5})\.(.+)", bare) if table else None
                for name, place in table.places.items() if table else ():
                    if place.name == (block[2] if block else bare):
                        ours = self._architecture.full_name(block[1], name) if block else name
                        if ours in self._tensors:
                            return ours, place.conversion
        raise CheckpointError(f"{shown} is for {weight}, but the model has no such tensor: it is another model's adapter")

    def _check(self, name: str, shape: tuple[int, ...], conversion: Conversion, ours: str) -> None:
        try:
            found = shape_after(conversion, shape)
        except (ValueError, IndexError):
            found = shape
        expected = self._tensors[ours].shape
        if found != expected and not (conversion is VECTOR and math.prod(found) == math.prod(expected)):
            raise CheckpointError(f"{name} must have the shape {expected} of {ours}; got {shape}")


class _Named:
    """A file with tensors by their names without the words of wrappers."""

    def __init__(self, file: TensorFile) -> None:
        self._stored = dict(zip(bare_names(file.tensors), file.tensors, strict=True))
        if len(self._stored) != len(file.tensors):
            raise CheckpointError("two of its tensors have the same name without the words of wrappers")
        self.tensors = {name: file.tensors[stored] for name, stored in self._stored.items()}
        self._file = file

    def read(self, name: str) -> Array:
        return self._file.read(self._stored[name])


def _without_init(name: str) -> str:
    match = INITIAL_PART.fullmatch(name)
    return f"{match[1]}.{match[2]}" if match else name


def _files(path: Path) -> tuple[Path, Path | None]:
    """(the file with tensors, adapter_config.json or None)."""
    if not path.is_dir():
        config = path.parent / CONFIG
        return path, config if path.name in FILES and config.is_file() else None
    if not (path / CONFIG).is_file():
        raise CheckpointError(f"the directory of an adapter has {CONFIG}; this one has none")
    for name in FILES:
        if (path / name).is_file():
            return path / name, path / CONFIG
    raise CheckpointError(f"the directory of an adapter has {' or '.join(FILES)}; this one has neither")


def _config(path: Path) -> dict[str, Any]:
    """adapter_config.json. Raises CheckpointError for what cannot be merged truthfully."""
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{CONFIG} may have at most {MAX_CONFIG_BYTES >> 20} MB")
    config = parse_object(path.read_bytes(), CONFIG)
    kind = config.get("peft_type")
    if kind not in TYPES:
        raise CheckpointError(f"peft_type in {CONFIG} must be one of {', '.join(TYPES)}; got {str(kind)[:80]!r}")
    for key, what in UNKNOWN_PARTS.items():
        if config.get(key):
            raise CheckpointError(f"{key} in {CONFIG} means {what}, which cannot be merged")
    if config.get("bias") not in (None, "none"):
        raise CheckpointError(f"bias in {CONFIG} must be none; got {str(config['bias'])[:80]!r}")
    start = config.get("init_lora_weights")
    if kind == "LORA" and start not in ORDINARY_STARTS:
        raise CheckpointError(
            f"init_lora_weights in {CONFIG} is {str(start)[:80]!r}, so training changed the base model first, and this checkpoint is "
            "another model; save the adapter with PEFT's path_initial_model_for_weight_conversion, which makes it an ordinary LoRA"
        )
    for key, valid in (("r", _is_rank), ("lora_alpha", _is_positive)):
        if kind == "LORA" and not valid(config.get(key)):
            raise CheckpointError(f"{key} in {CONFIG} must be a positive number; got {str(config.get(key))[:80]!r}")
    return config


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0


def _sum(paths: list[Path], alpha: float | None) -> str:
    """In hexadecimal: one hash of everything that the merged values depend on."""
    total = hashlib.sha256(repr(alpha).encode())
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
