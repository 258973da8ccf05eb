"""The `model` metadata: architecture, modality and sizes, and the check that the tensors of the file agree with them.

The architecture (architectures/) says which sizes there are, which tensors must be there, and in which shapes.

No memory may be allocated by a size before this check. Sizes that pass it are bounded by tensors that are in the file.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from rwkvquant.architectures import ARCHITECTURES, MATRIX_ROLES, SYMBOLS, Architecture, Dims, Role, TensorSpec
from rwkvquant.architectures.dims import factor
from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.strict_json import shown
from rwkvquant.formats.table import TensorEntry

_MAX_SIZE = 1 << 31


def encode_model(arch: str, dims: Dims, modality: str | None = None) -> str:
    """`modality` None is that of the architecture, which a file does not repeat. Raises FormatError for any other."""
    architecture = ARCHITECTURES.get(arch)
    if architecture is None:
        raise _unknown(arch)
    known = dataclasses.asdict(dims)
    sizes = {name: known[name] for symbol, name in SYMBOLS.items() if symbol in architecture.symbols}
    model: dict[str, Any] = {"arch": arch, "dims": sizes | {"ranks": dims.ranks}}
    if modality not in (None, architecture.modality):
        raise _other_modality(architecture, str(modality))
    return json.dumps(model)


def decode_model(text: str) -> tuple[Architecture, Dims]:
    """Raises FormatError for an unknown architecture, a modality that it does not have, or sizes that are not valid."""
    model = strict_json.parse_object(text, "the model")
    arch = strict_json.field(model, "arch", str, "the model")
    architecture = ARCHITECTURES.get(arch)
    if architecture is None:
        raise _unknown(arch)
    modality = model.get("modality", architecture.modality)
    if modality != architecture.modality:
        raise _other_modality(architecture, modality)
    return architecture, decode_dims(architecture, strict_json.field(model, "dims", dict, "the model"))


def decode_dims(architecture: Architecture, dims: dict[str, Any]) -> Dims:
    """Raises FormatError if a size of the architecture is missing or out of range. Other keys of `dims` are ignored."""
    least = {SYMBOLS[symbol]: 0 for symbol in architecture.optional_symbols}
    sizes = {name: _size(dims, name, least.get(name, 1)) for symbol, name in SYMBOLS.items() if symbol in architecture.symbols}
    ranks = strict_json.field(dims, "ranks", dict, "dims")
    return Dims(**sizes, ranks={name: _size(ranks, name) for name in ranks})


def check_dims(architecture: Architecture, dims: Dims, tensors: Mapping[str, TensorEntry]) -> None:
    """Raises FormatError if a tensor that fixes a size is missing, any tensor's shape contradicts the sizes, or its codec does not suit it.

    It does not ask for all tensors of the architecture: code that loads the weights does that.
    """
    if broken := architecture.broken_rule(dims):
        raise FormatError(broken)
    blocks = {name.removeprefix(architecture.block).split(".")[0] for name in tensors if name.startswith(architecture.block)}
    if dims.layers != len(blocks) or blocks != {str(layer) for layer in range(dims.layers)}:
        raise FormatError(f"dims say {dims.layers} layers; the tensors are those of {len(blocks)} blocks")

    carried, given = architecture.carried(tensors), set[str]()
    for name, spec, layer in architecture.specs(dims.layers):
        fixes_a_size = spec.name in architecture.anchors or (layer is None and spec.role in (Role.EMBEDDING, Role.HEAD))
        if not fixes_a_size or name in carried:
            continue
        shape = spec.forward_shape(dims)
        if name not in tensors:
            if spec.optional:
                continue
            raise FormatError(f"every model has a tensor {name}; this file has none")
        if not _fits(tensors[name], shape, spec.role in MATRIX_ROLES):
            raise _contradiction(tensors[name], shape)
        given |= {factor(axis)[1] for axis in spec.shape if isinstance(axis, str)}
    for symbol in architecture.optional_symbols - given:
        if size := dims.by_symbol()[symbol]:
            raise FormatError(f"{SYMBOLS[symbol]} of dims must be 0 in a file without a tensor of that size; got {size}")
    by_role: dict[str, list[tuple[Any, ...]]] = {}
    for spec in architecture.by_key.values():
        by_role.setdefault(str(spec.role), []).append(_forward_axes(spec, dims))
    for entry in tensors.values():
        if (entry.name in carried) != (entry.role == Role.CARRIED):
            raise FormatError(
                f"the role {Role.CARRIED} is that of tensors that {architecture.title} does not use; {entry.name} has the role {entry.role}"
            )
        if entry.role == Role.CARRIED:
            continue
        shapes = by_role.get(entry.role, [])
        if not any(_fits(entry, shape, entry.role in MATRIX_ROLES) for shape in shapes):
            raise _contradiction(entry, shapes[0] if shapes else ())
        if entry.packing.codec.nonnegative_input and not architecture.reads_nonnegative(entry.name, tensors):
            raise FormatError(f"{entry.layout} is for matrices whose input is never negative; the input of {entry.name} may be negative")


def _forward_axes(spec: TensorSpec, dims: Dims) -> tuple[Any, ...]:
    """The shape of one part of a tensor, with "rank" for every rank: ranks are compared with each other when the weights are loaded."""
    known = {symbol: size for symbol, size in dims.by_symbol().items() if symbol in SYMBOLS}
    axes = [axis if isinstance(axis, int) else known.get(factor(axis)[1], "rank") for axis in spec.shape[1 if spec.slices else 0 :]]
    if spec.kernel:
        return axes[0], math.prod(axes[1:])
    return tuple(reversed(axes)) if spec.transposed else tuple(axes)


def _fits(entry: TensorEntry, axes: tuple[Any, ...], is_matrix: bool) -> bool:
    """Matrices have their shape; a tensor that is not a matrix may be stored flat."""
    if not is_matrix:
        return math.prod(entry.shape) == math.prod(axes)
    return len(entry.shape) == len(axes) and all(axis in ("rank", size) for axis, size in zip(axes, entry.shape, strict=True))


def _unknown(arch: str) -> FormatError:
    return FormatError(f"this version knows {', '.join(ARCHITECTURES)}; the file holds {shown(arch)}. Try a newer rwkvquant.")


def _other_modality(architecture: Architecture, modality: Any) -> FormatError:
    return FormatError(f"the modality of {architecture.title} is {architecture.modality}; the file says {shown(modality)}")


def _contradiction(entry: TensorEntry, shape: tuple[Any, ...]) -> FormatError:
    return FormatError(f"{entry.name} must have the shape ({', '.join(map(str, shape))}) by the model's dims; got {list(entry.shape)}")


def _size(owner: dict[str, Any], name: str, least: int = 1) -> int:
    size = strict_json.field(owner, name, int, "dims")
    if not least <= size <= _MAX_SIZE:
        raise FormatError(f"{shown(name)} of dims must be {least} to {_MAX_SIZE}; got {size}")
    return size
