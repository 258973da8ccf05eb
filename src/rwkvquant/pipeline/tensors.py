"""Quantise the planned tensors of one block, hand them to the writer, and give back the weights the forward goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.checkpoints.tables import Role
from rwkvquant.config import QuantizeConfig
from rwkvquant.errors import CheckpointError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.formats.qtensor import DenseTensor, QTensor
from rwkvquant.models import QuantizedMatrix
from rwkvquant.pipeline.matrices import Hessian, Quantised, quantise_matrix
from rwkvquant.pipeline.plan import PlannedTensor
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.pipeline.settings import Setting
from rwkvquant.quantizers.elementwise import Importance, authors_codebook, stored_codebook, weighted_codebook
from rwkvquant.quantizers.loss import hessian_error, hessian_loss
from rwkvquant.quantizers.uniform import rtn

SOURCE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass
class Collected:
    """What the calibration text says of one block, by the activation that feeds a product, or is multiplied with a vector.

    `kept_out`: the same of text that is in none of `inputs`, which quantisers are judged by. `targets`: by tensor, weights that
    quantisation aims at instead of the block's own (correction.py).
    """

    inputs: Mapping[str, InputStatistics] = field(default_factory=dict)
    kept_out: Mapping[str, InputStatistics] = field(default_factory=dict)
    importance: Mapping[str, Importance] = field(default_factory=dict)
    targets: Mapping[str, Tensor] = field(default_factory=dict)


NOTHING = Collected()


class TensorWriter:
    """Quantises what it is given by the plan and the options, and reports each tensor."""

    def __init__(
        self, checkpoint: Checkpoint, plan: list[PlannedTensor], config: QuantizeConfig, writer: ContainerWriter, progress: Progress
    ) -> None:
        self._checkpoint, self._plan, self._config, self._writer, self._progress = checkpoint, plan, config, writer, progress
        self._hessians: dict[str, Hessian] = {}
        self.fallen_back: list[str] = []  # tensors whose error on text kept out was worse with error feedback than without

    def write(self, weights: Mapping[str, Any], layer: int | None, roles: set[Role], collected: Collected = NOTHING) -> dict[str, Any]:
        """Quantise the tensors of `layer` that have one of `roles`; `weights` and the result are the forward's, by key."""
        self._hessians.clear()
        after = dict(weights)
        for tensor in self._plan:
            if tensor.layer == layer and tensor.spec.role in roles:
                after[tensor.key] = self._write_one(tensor, weights[tensor.key], collected)
        return after

    def _write_one(self, tensor: PlannedTensor, weight: Tensor, collected: Collected) -> Any:
        if tensor.setting is None:
            values = weight.reshape(tensor.shape).cpu().numpy()
            dense = DenseTensor(values.astype(np.float16) if tensor.dense_bits == 16 else values.astype(np.float32))
            self._report(tensor, dense, tensor.method, None)
            return torch.from_numpy(dense.decode().reshape(weight.shape)).to(weight.device)
        W = weight.reshape(tensor.shape)
        if tensor.spec.role is Role.ELEMENTWISE:
            quantised = self._vector(tensor, W, collected)
            self._report(tensor, quantised, tensor.method, _plain_error(W, quantised))
            return torch.from_numpy(quantised.decode().reshape(weight.shape)).to(weight.device)
        quantised, setting, error = self._matrix(tensor, W, tensor.setting, collected)
        self._report(tensor, quantised, setting.method, error)
        return QuantizedMatrix(quantised, weight.device)

    def _matrix(self, tensor: PlannedTensor, W: Tensor, setting: Setting, collected: Collected) -> tuple[Quantised, Setting, float]:
        """The quantised matrix, by which setting in the end, and its error on the calibration text or in the weights alone."""
        if tensor.rows:  # the embedding; a search costs nothing and an 8-bit embedding loses 7 % less
            quantised: Quantised = quantise_matrix(setting, self._config, W, None)
            return quantised, setting, _plain_error(W, quantised)
        name = _input_name(tensor)
        found = collected.inputs.get(name) if name is not None else None
        if setting.feedback:
            assert found is not None, f"no statistics of the input of {tensor.name}"
            if not bool(torch.isfinite(found.H).all()):
                raise CheckpointError(
                    f"the input of {tensor.name} overflows float32 on the calibration text: some weight before it is far too large. "
                    "Is the checkpoint damaged? Try --method rtn to quantise it all the same"
                )
        quantised = quantise_matrix(setting, self._config, collected.targets.get(tensor.name, W), self._hessian(name, found, W))
        kept_out = collected.kept_out.get(name) if name is not None else None
        if setting.feedback and kept_out is not None:
            plain = quantise_matrix(setting.plain, self._config, W, self._hessian(name, found, W))
            judge = kept_out.H
            if hessian_loss(W, plain.decode(), judge) < hessian_loss(W, quantised.decode(), judge):
                self.fallen_back.append(tensor.name)
                quantised, setting = plain, setting.plain
        hessian = self._hessian(name, found, W)
        error = _plain_error(W, quantised) if hessian is None else hessian_error(W, quantised.decode(), hessian.H)
        return quantised, setting, error

    def _hessian(self, name: str | None, found: InputStatistics | None, W: Tensor) -> Hessian | None:
        if name is None or found is None:
            return None
        if name not in self._hessians:  # products with the same input share it
            self._hessians[name] = Hessian(found.H, self._config, W.dtype)
        return self._hessians[name]

    def _vector(self, tensor: PlannedTensor, W: Tensor, collected: Collected) -> Quantised:
        assert tensor.setting is not None
        if tensor.setting.kind == "uniform":
            return rtn(W, tensor.setting.codec, "weight")  # type: ignore[arg-type]
        weights = collected.importance[str(tensor.spec.partner)].weights
        if self._config.vector_codebook == "authors":
            return stored_codebook(W[0], authors_codebook(W[0], weights), self._config.vector_bits)
        return stored_codebook(W[0], weighted_codebook(W[0], weights, self._config.vector_bits), self._config.vector_bits)

    def _report(self, tensor: PlannedTensor, quantised: QTensor, method: str, error: float | None) -> None:
        if tensor.name in self._writer:
            return  # spooled by a run before this one; only its weights were needed again
        entry = self._writer.add(
            tensor.name,
            quantised,
            role=str(tensor.spec.role),
            method=method,
            source_shape=tensor.source_shape,
            transposed=tensor.spec.transposed,
            layout=tensor.layout,
            **({"relative_error": error} if error is not None and math.isfinite(error) else {}),
        )
        count = math.prod(tensor.shape)
        self._progress.tensor(
            TensorReport(
                name=tensor.name,
                method=method,
                layout=entry.layout,
                bits_per_weight=8 * tensor.stored_bytes / count,
                relative_error=error,
                source_bytes=count * SOURCE_BYTES[self._checkpoint.tensors[tensor.source].dtype],
                stored_bytes=tensor.stored_bytes,
            )
        )


def _input_name(tensor: PlannedTensor) -> str | None:
    """The activation that feeds a product; each slice of a sliced tensor has its own."""
    if tensor.spec.input is None or not tensor.spec.slices:
        return tensor.spec.input
    return f"{tensor.spec.input}.{tensor.name.rpartition('.')[2]}"


def _plain_error(W: Tensor, quantised: QTensor) -> float:
    """|W - Q|^2 / |W|^2, and the embedding is large: differences in float32, sums in float64."""
    decoded = torch.from_numpy(quantised.decode()).to(W.device)
    energy = float(W.square().sum(dtype=torch.float64))
    return float((W - decoded).square_().sum(dtype=torch.float64)) / energy if energy else 0.0
