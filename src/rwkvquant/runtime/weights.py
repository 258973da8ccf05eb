"""The weights of a file, packed or original, as the forward takes them: vectors in float32, matrices as the file has them.

Nothing large is decoded here. The native engine (engines/native.py) reads packed matrices where the file is held
(formats/pages.py); the NumPy forward (engines/reference.py) decodes them itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import MATRIX_ROLES, Dims, Role, TensorSpec, architecture
from rwkvquant.codecs import PackedTensor
from rwkvquant.codecs.dense import exact
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import PackedFile
from rwkvquant.formats.pages import Held
from rwkvquant.transforms import Applied

if TYPE_CHECKING:
    from rwkvquant.checkpoints import Checkpoint

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Weights:
    """By the checkpoint's names; each slice of a stack is a separate matrix, "blocks.0.att.time_maa_w2.3".

    Matrices with a name in `transforms` are for transformed inputs, which the native engine makes. `plain()` has none of them.

    `matrices` (out, in), without the embedding, which is (vocab, C), before ln0; of a model for images it is the matrix that reads
    patches, and heads and kernels of convolutions are matrices too. `start` has arrays of the recurrent state as a tuned
    model begins with them, for one sequence: {} or {"wkv": (L, H, N, N)}, [value, key]. `require_whole` raises FormatError if the
    file of the arrays became shorter: reading them then would end the process. `held` says where a packed file's bytes are.
    """

    arch: str
    dims: Dims
    matrices: dict[str, PackedTensor]
    vectors: dict[str, Array]
    embedding: PackedTensor
    start: dict[str, Array]
    transforms: dict[str, Applied] = field(default_factory=dict)
    require_whole: Callable[[], None] = lambda: None
    held: Callable[[], Held | None] = lambda: None

    def plain(self) -> Weights:
        """The same without transforms: undone in decoded weights, 2 or 4 bytes each. For engines that do not apply them."""
        undone = {name: exact(applied.undone(self.matrices[name].decode())) for name, applied in self.transforms.items()}
        return replace(self, matrices=self.matrices | undone, transforms={})


def checkpoint_weights(checkpoint: Checkpoint) -> Weights:
    """Matrices have 16 bits a weight where that is exact. Raises CheckpointError for a tensor that is damaged or not finite."""

    def read(name: str, spec: TensorSpec) -> list[PackedTensor] | None:
        if name not in checkpoint.tensors:
            return None
        values = checkpoint.read(name)
        values = values.reshape(spec.forward_shape(checkpoint.dims)) if spec.kernel else values
        values = values.swapaxes(-1, -2) if spec.transposed else values
        return [exact(matrix) for matrix in values] if spec.slices else [exact(values)]

    return weights_of(checkpoint.arch, checkpoint.dims, read)


def packed_weights(packed: PackedFile) -> Weights:
    """Raises FormatError for a tensor that is missing or does not have the shape that the file's dimensions ask for."""

    transforms = {}

    def read(name: str, spec: TensorSpec) -> list[PackedTensor] | None:
        names = [name + part.removeprefix(spec.name) for part in spec.parts]
        if not all(map(packed.uses, names)):
            return None
        parts = []
        for each in names:
            applied = packed.input_transform(each)
            if applied.name != "none" and packed.engine_transforms(each):
                transforms[each] = applied
            parts.append(packed.packed(each) if applied.name == "none" or each in transforms else exact(packed.decode(each)))
        return parts

    weights = weights_of(packed.arch, packed.dims, read)
    return replace(weights, transforms=transforms, require_whole=packed.require_whole, held=packed.contents.held)


def weights_of(arch: str, dims: Dims, read: Callable[[str, TensorSpec], list[PackedTensor] | None]) -> Weights:
    matrices: dict[str, PackedTensor] = {}
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
            found = part.shape
            if found != part_shape if spec.role in MATRIX_ROLES else math.prod(found) != math.prod(shape):
                raise FormatError(f"{name} must have the shape {part_shape} by the model's sizes; got {found}")
        if spec.role in MATRIX_ROLES:
            matrices |= {f"{name}.{index}" if spec.slices else name: part for index, part in enumerate(parts)}
        elif spec.role is Role.STATE:
            starts.setdefault(str(spec.starts), []).append(parts[0].decode().reshape(shape))
        else:
            vectors[name] = parts[0].decode().reshape(shape)
    for array, layers in starts.items():
        if len(layers) != dims.layers:
            raise FormatError(f"a tuned state has one {array} a layer; this file has {len(layers)} for {dims.layers} layers")
    embedding = matrices.pop(own.embedding.name)
    return Weights(arch, dims, matrices, vectors, embedding, {array: np.stack(layers) for array, layers in starts.items()})
