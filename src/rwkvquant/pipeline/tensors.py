"""Quantise the planned tensors of one block, hand them to the writer, and give back the weights the forward goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvquant.architectures import Role
from rwkvquant.calibration.statistics import CrossStatistics, Importance, InputStatistics
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import DenseTensor, QTensor
from rwkvquant.config import QuantizeConfig
from rwkvquant.errors import CheckpointError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.models import QuantizedMatrix
from rwkvquant.pipeline.matrices import Quantized, quantize_matrix, quantizer_options, sampled_rows
from rwkvquant.pipeline.plan import PlannedTensor
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.quantizers.elementwise.codebooks import vector_codebook
from rwkvquant.quantizers.shared.correction import corrected
from rwkvquant.quantizers.shared.factor import is_finite
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error, hessian_loss
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.recipes.setting import Setting

JUDGED = 1 << 20  # weights of a large matrix that may show that error feedback is clearly better,
CLEARLY = 1.25  # which is so many times less loss
SOURCE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}


@dataclass
class Collected:
    """What the calibration text says of one block, by the activation that feeds a product, or is multiplied with a vector.

    `kept_out`: the same of text that is in none of `inputs`, which quantisers are judged by. `missing`: by tensor, what errors before
    it have left for it to make up for (correction.py).
    """

    inputs: dict[str, InputStatistics] = field(default_factory=dict)
    kept_out: dict[str, InputStatistics] = field(default_factory=dict)
    importance: Mapping[str, Importance] = field(default_factory=dict)
    missing: dict[str, CrossStatistics] = field(default_factory=dict)


NOTHING = Collected()


class TensorWriter:
    """Quantises what it is given by the plan and the options, and reports each tensor."""

    def __init__(
        self, checkpoint: Checkpoint, plan: list[PlannedTensor], config: QuantizeConfig, writer: ContainerWriter, progress: Progress
    ) -> None:
        self._checkpoint, self._plan, self._config, self._writer, self._progress = checkpoint, plan, config, writer, progress
        self._options = quantizer_options(config)
        self._hessians: dict[str, Hessian] = {}
        self.fallen_back: list[str] = []  # tensors whose error on text kept out was worse with error feedback than without

    def write(self, weights: Mapping[str, Any], layer: int | None, roles: set[Role], collected: Collected = NOTHING) -> dict[str, Any]:
        """Quantise the tensors of `layer` that have one of `roles`; `weights` and the result are the forward's, by key.

        What was collected of an input goes with the last tensor that has it, and what is missing of a product with that.
        """
        self._hessians.clear()
        after = dict(weights)
        todo = [tensor for tensor in self._plan if tensor.layer == layer and tensor.spec.role in roles]
        last_use = {_input_name(tensor): i for i, tensor in enumerate(todo)}
        for i, tensor in enumerate(todo):
            after[tensor.key] = self._write_one(tensor, weights[tensor.key], collected)
            name = _input_name(tensor)
            if name is not None and last_use[name] == i:  # room for the others: the widest may be to come
                for kept in (self._hessians, collected.inputs, collected.kept_out):
                    kept.pop(name, None)
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

    def _matrix(self, tensor: PlannedTensor, W: Tensor, setting: Setting, collected: Collected) -> tuple[Quantized, Setting, float]:
        """The quantised matrix, by which setting in the end, and its error on the calibration text or in the weights alone."""
        if tensor.rows:  # the embedding; a search costs nothing and an 8-bit embedding loses 7 % less
            quantised: Quantized = quantize_matrix(setting, self._options, W, None)
            return quantised, setting, _plain_error(W, quantised)
        name = _input_name(tensor)
        found = collected.inputs.get(name) if name is not None else None
        if setting.feedback:
            assert found is not None, f"no statistics of the input of {tensor.name}"
            if not is_finite(found.H):
                raise CheckpointError(
                    f"the input of {tensor.name} overflows float32 on the calibration text: some weight before it is far too large. "
                    "Is the checkpoint damaged? Try --method rtn to quantise it all the same"
                )
        hessian, target = self._hessian(name, found, W), W
        if hessian is not None and tensor.name in collected.missing:
            target = corrected(
                hessian.factor(self._options), W, collected.missing.pop(tensor.name).wanted, float(self._config.correction or 0)
            )
        quantised = quantize_matrix(setting, self._options, target, hessian)
        kept_out = collected.kept_out.get(name) if name is not None else None
        if setting.feedback and kept_out is not None and hessian is not None:
            plain = self._better_plain(W, setting.plain, hessian, quantised, kept_out.H.to(W.dtype))
            if plain is not None:
                self.fallen_back.append(tensor.name)
                quantised, setting = plain, setting.plain
        error = _plain_error(W, quantised) if hessian is None else hessian_error(W, quantised.decode(), hessian.working)
        return quantised, setting, error

    def _better_plain(self, W: Tensor, plain: Setting, hessian: Hessian, quantised: Quantized, judge: Tensor) -> Quantized | None:
        """W without error feedback, if it loses less than `quantised` under H `judge`. Some rows of a large matrix may say no."""
        decoded = torch.from_numpy(quantised.decode()).to(W.device)

        def losses(rows: Any) -> tuple[Quantized, float, float]:
            found = quantize_matrix(plain, self._options, W[rows], hessian)
            return found, hessian_loss(W[rows], found.decode(), judge), hessian_loss(W[rows], decoded[rows], judge)

        if W.numel() > JUDGED:
            _, of_plain, of_quantised = losses(sampled_rows(W.shape, JUDGED))
            if of_plain > CLEARLY * of_quantised:
                return None
        found, of_plain, of_quantised = losses(slice(None))
        return found if of_plain < of_quantised else None

    def _hessian(self, name: str | None, found: InputStatistics | None, W: Tensor) -> Hessian | None:
        if name is None or found is None:
            return None
        if name not in self._hessians:  # products with the same input share it
            self._hessians[name] = Hessian(found.H, W.dtype)
        return self._hessians[name]

    def _vector(self, tensor: PlannedTensor, W: Tensor, collected: Collected) -> Quantized:
        assert tensor.setting is not None
        if tensor.setting.kind == "uniform":
            return rtn(W, tensor.setting.codec, "weight")  # type: ignore[arg-type]
        weights = collected.importance[str(tensor.spec.partner)].weights
        return vector_codebook(W[0], weights, self._config.vector_bits, str(self._config.vector_codebook))

    def _report(self, tensor: PlannedTensor, quantised: QTensor, method: str, error: float | None) -> None:
        if tensor.name in self._writer:
            return  # spooled by a run before this one; only its weights were needed again
        extra: dict[str, Any] = {"relative_error": error} if error is not None and math.isfinite(error) else {}
        entry = self._writer.add(
            tensor.name,
            quantised,
            role=str(tensor.spec.role),
            method=method,
            source_shape=tensor.source_shape,
            transposed=tensor.spec.transposed,
            layout=tensor.layout,
            **extra,
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
