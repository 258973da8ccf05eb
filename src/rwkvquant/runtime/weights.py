"""The weights of a file, packed or original, in the form that the NumPy step forward takes: float32, matrices (out, in).

Matrices are decoded once at load, 4 bytes a weight: simple, and for small models. The embedding of a packed file stays as codes,
and only the rows that a token needs are decoded.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.checkpoints.detect import all_specs, is_unused
from rwkvquant.checkpoints.shapes import forward_shape
from rwkvquant.checkpoints.tables import Role, TensorSpec
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import PackedFile
from rwkvquant.formats.qtensor import CodebookTensor, QTensor, UniformTensor
from rwkvquant.kernels.state import Dims

Array = NDArray[np.float32]
MATRICES = (Role.PROJECTION, Role.LORA, Role.HEAD)  # others may be stored flat, as (1, C), or as (1, 1, C)


@dataclass(frozen=True)
class Weights:
    """`tensors` by the checkpoint's names, without emb.weight; `embed` takes B ids to their (B, C) rows of it, before ln0.

    `time_state` is a tuned initial wkv (L, H, N, N), [value, key], or None.
    """

    arch: str
    dims: Dims
    tensors: dict[str, Array]
    embed: Callable[[Sequence[int]], Array]
    time_state: Array | None


def checkpoint_weights(checkpoint: Checkpoint) -> Weights:
    """Raises CheckpointError for a tensor that was altered or is not finite."""

    def read(name: str, spec: TensorSpec) -> Array | None:
        if name not in checkpoint.tensors:
            return None
        values = checkpoint.read(name)
        return np.ascontiguousarray(values.swapaxes(-1, -2)) if spec.transposed else values

    embedding = checkpoint.read("emb.weight")
    return _weights(checkpoint.arch, checkpoint.dims, read, lambda ids: embedding[list(ids)])


def packed_weights(packed: PackedFile) -> Weights:
    """Raises FormatError for a tensor that is missing or does not have the shape that the file's dimensions ask for."""

    def read(name: str, spec: TensorSpec) -> Array | None:
        names = [f"{name}.{index}" for index in range(int(spec.shape[0]))] if spec.slices else [name]
        if any(name not in packed.tensors for name in names):
            return None
        decoded = [packed.qtensor(name).decode() for name in names]
        return np.stack(decoded) if spec.slices else decoded[0]

    return _weights(packed.arch, packed.dims, read, row_reader(packed.qtensor("emb.weight")))


def row_reader(tensor: QTensor) -> Callable[[Sequence[int]], Array]:
    """ids -> their decoded rows (len(ids), cols); the other rows stay as they are."""
    if isinstance(tensor, UniformTensor):
        arrays: dict[str, Any] = {f.name: v for f in dataclasses.fields(tensor) if isinstance(v := getattr(tensor, f.name), np.ndarray)}
        return lambda ids: dataclasses.replace(tensor, **{name: array[list(ids)] for name, array in arrays.items()}).decode()
    if isinstance(tensor, CodebookTensor):  # rows share codebooks; nobody stores an embedding like that, but the format allows it
        decoded = tensor.decode()
        return lambda ids: decoded[list(ids)]
    values = tensor.values
    return lambda ids: values[list(ids)].astype(np.float32)


def _weights(arch: str, dims: Dims, read: Callable[[str, TensorSpec], Array | None], embed: Callable[[Sequence[int]], Array]) -> Weights:
    tensors: dict[str, Array] = {}
    time_states: list[Array] = []
    for name, spec, layer in all_specs(arch, dims.layers):
        if spec.role is Role.EMBEDDING or is_unused(spec, layer):
            continue
        values = read(name, spec)
        if values is None:
            if not spec.optional:
                raise FormatError(f"every {arch} model of {dims.layers} layers has the tensor {name}; this file lacks it")
            continue
        shape = forward_shape(spec, dims)
        if values.shape != shape if spec.role in MATRICES else values.size != math.prod(shape):
            raise FormatError(f"{name} must have the shape {shape} by the model's sizes; got {values.shape}")
        if spec.role is Role.STATE:
            time_states.append(values.reshape(shape))
        else:
            tensors[name] = values.reshape(shape)
    if len(time_states) not in (0, dims.layers):
        raise FormatError(f"a tuned state has one time_state a layer; this file has {len(time_states)} for {dims.layers} layers")
    return Weights(arch, dims, tensors, embed, np.stack(time_states) if time_states else None)
