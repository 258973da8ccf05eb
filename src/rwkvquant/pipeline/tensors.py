"""Quantise the planned tensors of one block, hand them to the writer, and give back the weights the forward goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping
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
from rwkvquant.formats.qtensor import DenseTensor, QTensor, UniformTensor
from rwkvquant.models import QuantizedMatrix
from rwkvquant.pipeline.plan import PlannedTensor, method_of
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.quantizers.gptq import InverseFactor, factorise, gptq_with
from rwkvquant.quantizers.loss import hessian_error
from rwkvquant.quantizers.uniform import rtn

SOURCE_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4}

Statistics = Mapping[str, InputStatistics]


class TensorWriter:
    """Quantises what it is given by the plan and the options, and reports each tensor."""

    def __init__(
        self, checkpoint: Checkpoint, plan: list[PlannedTensor], config: QuantizeConfig, writer: ContainerWriter, progress: Progress
    ) -> None:
        self._checkpoint, self._plan, self._config, self._writer, self._progress = checkpoint, plan, config, writer, progress
        self._factors: dict[str, InverseFactor] = {}

    def write(
        self, weights: Mapping[str, Any], layer: int | None, roles: set[Role], statistics: Statistics | None = None
    ) -> dict[str, Any]:
        """Quantise the tensors of `layer` that have one of `roles`; `weights` and the result are the forward's, by key.

        `statistics` are by the activation that feeds a product; without them the error is the weight's own.
        """
        self._factors.clear()
        after = dict(weights)
        for tensor in self._plan:
            if tensor.layer == layer and tensor.spec.role in roles:
                after[tensor.key] = self._write_one(tensor, weights[tensor.key], statistics)
        return after

    def _write_one(self, tensor: PlannedTensor, weight: Tensor, statistics: Statistics | None) -> Any:
        if tensor.grid is None:
            values = weight.reshape(tensor.shape).cpu().numpy()
            quantised: QTensor = DenseTensor(values.astype(np.float16) if tensor.dense_bits == 16 else values.astype(np.float32))
            error = None
        else:
            name = _input_name(tensor)
            found = statistics.get(name) if statistics is not None and name is not None else None
            quantised = self._quantise(tensor, weight.reshape(tensor.shape), name, found)
            error = _relative_error(weight.reshape(tensor.shape), quantised, found)
        self._report(tensor, quantised, error)
        if isinstance(quantised, UniformTensor) and tensor.spec.role is not Role.ELEMENTWISE:
            return QuantizedMatrix(quantised, weight.device)
        return torch.from_numpy(quantised.decode().reshape(weight.shape)).to(weight.device)

    def _quantise(self, tensor: PlannedTensor, W: Tensor, name: str | None, found: InputStatistics | None) -> UniformTensor:
        config, grid = self._config, tensor.grid
        assert grid is not None
        if tensor.rows:
            return rtn(W, grid, "weight")  # costs nothing, and an 8-bit embedding loses 7 % less
        clip = config.clip_search or "none"
        if method_of(tensor, config.method) == "rtn":
            return rtn(W, grid, clip, None if found is None else found.mean_square)
        assert found is not None and name is not None, f"no statistics of the input of {tensor.name}"
        if not bool(torch.isfinite(found.H).all()):
            raise CheckpointError(
                f"the input of {tensor.name} overflows float32 on the calibration text: some weight before it is far too large. "
                "Is the checkpoint damaged? Try --method rtn to quantise it all the same"
            )
        if name not in self._factors:  # products with the same input share it
            self._factors[name] = factorise(found.H.to(W.dtype), damping=config.damping, act_order=config.act_order)
        return gptq_with(self._factors[name], W, grid, clip_search=clip, static_groups=config.act_order)

    def _report(self, tensor: PlannedTensor, quantised: QTensor, error: float | None) -> None:
        method = method_of(tensor, self._config.method)
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


def _relative_error(W: Tensor, quantised: QTensor, found: InputStatistics | None) -> float:
    decoded = torch.from_numpy(quantised.decode()).to(W.device)
    if found is not None:
        return hessian_error(W, decoded, found.H)
    energy = float(W.double().square().sum())
    return float((W - decoded).double().square().sum()) / energy if energy else 0.0
