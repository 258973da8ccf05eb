"""The weights of the torch forward, one layer at a time, from a checkpoint or from a packed file.

Names are those of the checkpoint: full names outside of the layers, relative names inside ("att.key.weight"). Matrices are (out, in),
vectors flat (C,), tensors for heads (H, N) or (H, N, N). A sliced tensor gives one matrix for each slice, "att.time_maa_w2.0" to ".4".
ln0, which normalises the embedding, counts as global. Types are float32, or QuantizedMatrix; with `inputs`, matrices that are multiplied
with rounded inputs are RoundedInput.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import MATRIX_ROLES, QUANTIZED_ROLES, Dims, Role, TensorSpec, architecture
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import codec_of
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import PackedFile
from rwkvquant.models.few_bits import InputRounding, RoundedInput
from rwkvquant.models.quantized import QuantizedMatrix


class WeightSource(Protocol):
    """Weights by name. Every call reads them again; a caller that needs them twice keeps them."""

    @property
    def arch(self) -> str: ...
    @property
    def dims(self) -> Dims: ...
    def globals(self) -> dict[str, Any]:
        """emb.weight, blocks.0.ln0, ln_out and head.weight, by full name."""
        ...

    def block(self, layer: int) -> dict[str, Any]:
        """The tensors of one layer by their names inside it."""
        ...


class CheckpointSource:
    """Dense float32 weights of a checkpoint. Reading raises CheckpointError for a tensor that is damaged or not finite.

    `inputs` is for projections and LoRA factors.
    """

    def __init__(self, checkpoint: Checkpoint, device: torch.device | str = "cpu", inputs: InputRounding | None = None) -> None:
        self.arch, self.dims = checkpoint.arch, checkpoint.dims
        self._checkpoint, self._device, self._inputs = checkpoint, device, inputs
        self._matrices = {matrix.name for matrix in checkpoint.logical_matrices()}

    def globals(self) -> dict[str, Any]:
        return _collect(self, None, self._read)

    def block(self, layer: int) -> dict[str, Any]:
        return _collect(self, layer, self._read)

    def _read(self, name: str, spec: TensorSpec, shape: tuple[int, ...]) -> Tensor | RoundedInput | None:
        if name in self._matrices:
            W = _tensor(self._checkpoint.read_matrix(name), shape, self._device)
            return W if self._inputs is None or spec.role not in QUANTIZED_ROLES else self._inputs.of(W)
        if name in self._checkpoint.tensors:
            return _tensor(self._checkpoint.read(name), shape, self._device)
        return None


class PackedSource:
    """The weights of a packed file: matrices and embedding stay codes, vectors are decoded.

    `inputs` is for all matrices in codes but the embedding: those for which the engine rounds activations too.

    Reading raises FormatError for a tensor that is missing, or whose shape does not fit the model's sizes.
    """

    def __init__(self, packed: PackedFile, device: torch.device | str = "cpu", inputs: InputRounding | None = None) -> None:
        self.arch, self.dims = packed.arch, packed.dims
        self._packed, self._device, self._inputs = packed, device, inputs

    def globals(self) -> dict[str, Any]:
        return _collect(self, None, self._read)

    def block(self, layer: int) -> dict[str, Any]:
        return _collect(self, layer, self._read)

    def _read(self, name: str, spec: TensorSpec, shape: tuple[int, ...]) -> Tensor | QuantizedMatrix | RoundedInput | None:
        if not self._packed.uses(name):
            return None
        tensor = self._packed.qtensor(name)
        is_vector = spec.role not in MATRIX_ROLES
        if math.prod(tensor.shape) != math.prod(shape) or (not is_vector and tensor.shape != shape):
            raise FormatError(f"{self._packed.path}: {name} must have the shape {shape} by the model's sizes; got {tensor.shape}")
        applied, codes = self._packed.input_transform(name), not is_vector and codec_of(tensor).quantizes
        if codes and self._inputs is not None and spec.role is not Role.EMBEDDING:
            return self._inputs.of(QuantizedMatrix(tensor, self._device), applied)
        return QuantizedMatrix(tensor, self._device, applied) if codes else _tensor(self._packed.decode(name), shape, self._device)


def _collect(source: WeightSource, layer: int | None, read: Callable[[str, TensorSpec, tuple[int, ...]], Any]) -> dict[str, Any]:
    """All tensors of one layer, or the global ones for None.

    `read` takes a logical name, its row of the table and the expected shape, and gives None for a tensor that is not there.
    """
    weights, own = {}, architecture(source.arch)
    for _, spec, at in own.used(source.dims.layers):
        if own.owner(spec, at) != layer:
            continue
        shape = spec.part_shape(source.dims)
        for key in spec.parts:
            name = key if at is None else own.full_name(at, key)
            weight = read(name, spec, shape)
            if weight is not None:
                weights[name if layer is None else key] = weight
            elif not spec.optional:
                raise FormatError(f"every {source.arch} model of {source.dims.layers} layers has the tensor {name}; this file lacks it")
    return weights


def _tensor(values: NDArray[np.float32], shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    return torch.tensor(values.reshape(shape), device=device)  # a copy: `values` may be a read-only view of the file
