"""The weights of a file, packed or original, as the forward takes them: vectors in float32, matrices as they lie in the file.

Nothing large is decoded here. The native engine (engines/native.py) reads packed matrices where they lie in the file; the NumPy
forward (engines/reference.py) decodes them itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import MATRIX_ROLES, Dims, Role, TensorSpec, architecture
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import DenseTensor, QTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import PackedFile
from rwkvquant.formats.layout import TensorParams, unpack
from rwkvquant.formats.layout_sizes import ALIGNMENT
from rwkvquant.kernels.bfloat import narrow_exactly, widen_bfloat

Array = NDArray[np.float32]
BFLOAT = "dense.bf16"
DENSE = {"float16": "dense.f16", "uint16": BFLOAT, "float32": "dense.f32"}


@dataclass(frozen=True)
class Stored:
    """A tensor in its layout: flat arrays by their suffix, views of the file where it is a packed one.

    Original checkpoints in bfloat16 have a layout of their own here, BFLOAT, which packed files do not know.
    """

    layout: str
    params: TensorParams
    arrays: dict[str, NDArray[Any]]

    @classmethod
    def dense(cls, values: Array) -> Stored:
        """In 16 bits where these are exact: an original checkpoint takes the memory that it takes on disk."""
        narrow = narrow_exactly(np.ascontiguousarray(values, np.float32)).reshape(-1)
        missing = -narrow.nbytes % ALIGNMENT // narrow.itemsize  # layouts end at a whole number of cache lines
        padded = np.concatenate([narrow, np.zeros(missing, narrow.dtype)]) if missing else narrow
        return cls(DENSE[narrow.dtype.name], TensorParams(values.shape), {"values": padded})

    def qtensor(self) -> QTensor:
        if self.layout == BFLOAT:
            return DenseTensor(widen_bfloat(self.arrays["values"][: math.prod(self.params.shape)]).reshape(self.params.shape))
        return unpack(self.layout, self.params, self.arrays)


@dataclass(frozen=True)
class Weights:
    """By the checkpoint's names; slices of a stack are matrices of their own, "blocks.0.att.time_maa_w2.3".

    `matrices` (out, in), without the embedding, which is (vocab, C), before ln0. `start` has arrays of the recurrent state as a tuned
    model begins with them, for one sequence: {} or {"wkv": (L, H, N, N)}, [value, key]. `require_whole` raises FormatError if the
    file behind the arrays became shorter: reading them then would end the process.
    """

    arch: str
    dims: Dims
    matrices: dict[str, Stored]
    vectors: dict[str, Array]
    embedding: Stored
    start: dict[str, Array]
    require_whole: Callable[[], None] = lambda: None


def checkpoint_weights(checkpoint: Checkpoint) -> Weights:
    """Raises CheckpointError for a tensor that was altered or is not finite."""

    def read(name: str, spec: TensorSpec) -> list[Stored] | None:
        if name not in checkpoint.tensors:
            return None
        values = checkpoint.read(name)
        values = values.swapaxes(-1, -2) if spec.transposed else values
        return [Stored.dense(matrix) for matrix in values] if spec.slices else [Stored.dense(values)]

    return _weights(checkpoint.arch, checkpoint.dims, read)


def packed_weights(packed: PackedFile) -> Weights:
    """Raises FormatError for a tensor that is missing or does not have the shape that the file's dimensions ask for."""

    def read(name: str, spec: TensorSpec) -> list[Stored] | None:
        names = [name + part.removeprefix(spec.name) for part in spec.parts]
        if any(name not in packed.tensors for name in names):
            return None
        return [Stored(packed.tensors[name].layout, packed.tensors[name].params, packed.arrays(name)) for name in names]

    return replace(_weights(packed.arch, packed.dims, read), require_whole=packed.require_whole)


def _weights(arch: str, dims: Dims, read: Callable[[str, TensorSpec], list[Stored] | None]) -> Weights:
    matrices: dict[str, Stored] = {}
    vectors: dict[str, Array] = {}
    starts: dict[str, list[Array]] = {}
    own = architecture(arch)
    for name, spec, _ in own.used(dims.layers):
        parts = read(name, spec)
        if parts is None:
            if not spec.optional:
                raise FormatError(f"every {arch} model of {dims.layers} layers has the tensor {name}; this file lacks it")
            continue
        shape, part_shape = spec.forward_shape(dims), spec.part_shape(dims)
        for part in parts:
            found = part.params.shape
            if found != part_shape if spec.role in MATRIX_ROLES else math.prod(found) != math.prod(shape):
                raise FormatError(f"{name} must have the shape {part_shape} by the model's sizes; got {found}")
        if spec.role in MATRIX_ROLES:
            matrices |= {f"{name}.{index}" if spec.slices else name: part for index, part in enumerate(parts)}
        elif spec.role is Role.STATE:
            starts.setdefault(str(spec.starts), []).append(parts[0].qtensor().decode().reshape(shape))
        else:
            vectors[name] = parts[0].qtensor().decode().reshape(shape)
    for array, layers in starts.items():
        if len(layers) != dims.layers:
            raise FormatError(f"a tuned state has one {array} a layer; this file has {len(layers)} for {dims.layers} layers")
    embedding = matrices.pop(own.embedding.name)
    return Weights(arch, dims, matrices, vectors, embedding, {array: np.stack(layers) for array, layers in starts.items()})
