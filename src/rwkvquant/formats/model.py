"""The `model` metadata: architecture and sizes, and the check that the tensors of the file agree with them.

Nothing may be allocated by a size before this check: sizes that pass are bounded by tensors that are really there.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.strict_json import shown
from rwkvquant.formats.table import TensorEntry
from rwkvquant.kernels.state import Dims

ARCHITECTURES = ("rwkv6", "rwkv7")
_MAX_SIZE = 1 << 31
_VECTOR_ROLES = ("elementwise", "norm", "bias")


def encode_model(arch: str, dims: Dims) -> str:
    return json.dumps({"arch": arch, "dims": dataclasses.asdict(dims)})


def decode_model(text: str) -> tuple[str, Dims]:
    """Raises FormatError for an unknown architecture or sizes that are none."""
    model = strict_json.parse_object(text, "the model")
    arch = strict_json.field(model, "arch", str, "the model")
    if arch not in ARCHITECTURES:
        raise FormatError(f"this version runs {' and '.join(ARCHITECTURES)}; the file holds {shown(arch)}. Try a newer rwkvquant.")
    return arch, decode_dims(strict_json.field(model, "dims", dict, "the model"))


def decode_dims(dims: dict[str, Any]) -> Dims:
    """Raises FormatError if a size is missing or out of range."""
    names = [item.name for item in dataclasses.fields(Dims) if item.name != "ranks"]
    sizes = {name: _size(dims, name) for name in names}
    ranks = strict_json.field(dims, "ranks", dict, "dims")
    return Dims(**sizes, ranks={name: _size(ranks, name) for name in ranks})


def check_dims(dims: Dims, tensors: Mapping[str, TensorEntry]) -> None:
    """Raises FormatError if a tensor that fixes a size is missing, or any tensor's shape contradicts the sizes.

    Whether all tensors of the architecture are there is asked by whoever loads the weights (architectures/ has the list).
    """
    C, F, V = dims.width, dims.hidden, dims.vocab
    if dims.heads * dims.head_size != C:
        raise FormatError(f"heads x head_size must be the width {C}; got {dims.heads} x {dims.head_size}")
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    if dims.layers != len(blocks) or blocks != {str(layer) for layer in range(dims.layers)}:
        raise FormatError(f"dims say {dims.layers} layers; the tensors are those of {len(blocks)} blocks")

    anchors = {"emb.weight": (V, C), "head.weight": (V, C)}
    for layer in range(dims.layers):
        anchors |= {f"blocks.{layer}.att.receptance.weight": (C, C), f"blocks.{layer}.ffn.key.weight": (F, C)}
    for name, shape in anchors.items():
        if name not in tensors:
            raise FormatError(f"every model has a tensor {name}; this file has none")
        if tensors[name].shape != shape:
            raise _contradiction(tensors[name], shape)
    for entry in tensors.values():
        _check_role(entry, dims)


def _check_role(entry: TensorEntry, dims: Dims) -> None:
    C, F = dims.width, dims.hidden
    if entry.role == "projection" and entry.shape not in ((C, C), (F, C), (C, F)):
        raise _contradiction(entry, (C, C))
    if entry.role == "lora" and C not in entry.shape:
        raise _contradiction(entry, (C, "rank"))
    if entry.role in _VECTOR_ROLES and math.prod(entry.shape) != C:
        raise _contradiction(entry, (1, C))
    if entry.role == "state" and math.prod(entry.shape) != C * dims.head_size:
        raise _contradiction(entry, (dims.heads, dims.head_size, dims.head_size))


def _contradiction(entry: TensorEntry, shape: tuple[Any, ...]) -> FormatError:
    return FormatError(f"{entry.name} must have the shape ({', '.join(map(str, shape))}) by the model's dims; got {list(entry.shape)}")


def _size(owner: dict[str, Any], name: str) -> int:
    size = strict_json.field(owner, name, int, "dims")
    if not 1 <= size <= _MAX_SIZE:
        raise FormatError(f"{shown(name)} of dims must lie in 1 to {_MAX_SIZE}; got {size}")
    return size
