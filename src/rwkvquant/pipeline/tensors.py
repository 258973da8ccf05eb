"""Quantise the planned tensors of one block, give them to the writer, and return the weights that the forward continues with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Role
from rwkvquant.calibration.statistics import CrossStatistics, DriftStatistics, Importance, InputStatistics
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import DenseTensor, QTensor
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.models import QuantizedMatrix
from rwkvquant.pipeline.executor import Executor
from rwkvquant.pipeline.folding import Finished, folded
from rwkvquant.pipeline.guides import Guides
from rwkvquant.pipeline.matrices import quantize_matrix
from rwkvquant.pipeline.plan import PlannedTensor
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.pipeline.tasks import Done, Matrix, Task, plain_error
from rwkvquant.pipeline.transforms import input_name, rotated_inside
from rwkvquant.quantizers.elementwise.codebooks import vector_codebook
from rwkvquant.recipes import Recipe


@dataclass
class Collected:
    """Statistics of the calibration text in one block, by the activation that feeds a product or is multiplied with a vector.

    `kept_out`: the same as `inputs`, on text that quantisers do not see, to test them on. `missing`: by tensor, the earlier errors that it
    corrects (correction.py). `drift`: by input, how far it has moved (drift.py).
    """

    inputs: dict[str, InputStatistics] = field(default_factory=dict)
    kept_out: dict[str, InputStatistics] = field(default_factory=dict)
    importance: Mapping[str, Importance] = field(default_factory=dict)
    missing: dict[str, CrossStatistics] = field(default_factory=dict)
    drift: dict[str, DriftStatistics] = field(default_factory=dict)


NOTHING = Collected()


class TensorWriter:
    """Quantises tensors as the plan and the recipe say, and reports each of them."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        plan: list[PlannedTensor],
        recipe: Recipe,
        writer: ContainerWriter,
        progress: Progress,
        executor: Executor,
        guides: Guides | None = None,
    ) -> None:
        self._checkpoint, self._plan, self._recipe, self._guides = checkpoint, plan, recipe, guides or Guides()
        self._writer, self._progress, self._executor = writer, progress, executor
        self._rotated = {matrix.name: producers for matrix, producers in rotated_inside(checkpoint, recipe)}
        self.fallen_back: list[str] = []  # tensors that had more error on text kept out with error feedback than without

    def write(self, weights: Mapping[str, Any], layer: int | None, roles: set[Role], collected: Collected = NOTHING) -> dict[str, Any]:
        """Quantise the tensors of `layer` that have one of `roles`. `weights` and the result are those of the forward, by key.

        The statistics of an input are removed from `collected` when the tensors that have this input are quantised.
        """
        if layer is not None:
            self._progress.phase(f"block {layer + 1} of {self._checkpoint.dims.layers}: quantising")
        after = dict(weights)
        todo = [tensor for tensor in self._plan if tensor.layer == layer and tensor.spec.role in roles]
        results, done = self._executor.run(self._tasks(todo, weights, collected)), dict[str, Done]()
        waiting, folds = dict[str, Finished](), any(tensor.transform.folded for tensor in todo)
        for tensor in todo:
            if _is_matrix(tensor):
                while tensor.name not in done:  # others with the same input may come after it in the file
                    done |= {each.name: each for each in next(results)}
                finished = self._finished(tensor, done.pop(tensor.name))
            else:
                finished = self._finished_here(tensor, weights[tensor.key], collected)
            if folds:  # a tensor that comes later may change its rows
                waiting[tensor.key] = finished
            else:
                after[tensor.key] = self._written(finished, weights[tensor.key])
        for key, finished in folded(waiting, self._checkpoint.architecture.producers).items():
            after[key] = self._written(finished, weights[key])
            if waiting[key].tensor.transform.folded and not finished.folded_into:
                self._progress.note(
                    f"the scale of the input of {finished.tensor.name} is applied at run time, and stored: what makes this input could not "
                    "hold it in float16"
                )
        return after

    def carry(self) -> None:
        """Write what the forward does not use as it is, one tensor at a time."""
        for tensor in self._plan:
            if tensor.spec.role is Role.CARRIED:
                values = self._checkpoint.read(tensor.source).reshape(tensor.shape)
                self._report(Finished(tensor, _dense(values, tensor.dense_bits), tensor.method))

    def _tasks(self, todo: list[PlannedTensor], weights: Mapping[str, Any], collected: Collected) -> Iterator[Task]:
        """One for each input, made when it is needed: there is room for the statistics of one at a time."""
        groups: dict[str, list[PlannedTensor]] = {}
        for tensor in filter(_is_matrix, todo):
            groups.setdefault(input_name(tensor) or tensor.name, []).append(tensor)
        for name, tensors in groups.items():
            yield self._task(name, tensors, weights, collected)  # no local name keeps its statistics alive

    def _task(self, name: str, tensors: list[PlannedTensor], weights: Mapping[str, Any], collected: Collected) -> Task:
        matrices = tuple(self._as_data(tensor, weights[tensor.key], collected) for tensor in tensors)
        inputs, kept_out, drift = collected.inputs.pop(name, None), collected.kept_out.pop(name, None), collected.drift.pop(name, None)
        H, H_kept_out = inputs.H if inputs else None, kept_out.H if kept_out else None
        transform = tensors[0].transform
        assert all(tensor.transform.name == transform.name for tensor in tensors), f"products with the input {name} have one transform"
        return Task(matrices, self._recipe.quantizer, self._recipe.correction, H, H_kept_out, transform, drift.moment if drift else None)

    def _as_data(self, tensor: PlannedTensor, weight: Tensor, collected: Collected) -> Matrix:
        assert tensor.setting is not None
        missing = collected.missing.pop(tensor.name, None)
        moment, of_rows = missing.moment if missing else None, self._guides.of(tensor.name)
        return Matrix(tensor.name, weight.reshape(tensor.shape), tensor.setting, moment, of_rows)

    def _finished(self, tensor: PlannedTensor, matrix: Done) -> Finished:
        if matrix.fell_back:
            self.fallen_back.append(tensor.name)
        return Finished(replace(tensor, transform=matrix.transform), matrix.quantised, matrix.setting.method, matrix.error)

    def _finished_here(self, tensor: PlannedTensor, weight: Tensor, collected: Collected) -> Finished:
        """What is too small for a task: tensors that stay dense, and element-wise vectors."""
        W = weight.reshape(tensor.shape)
        if tensor.setting is None:
            return Finished(tensor, _dense(W.cpu().numpy(), tensor.dense_bits), tensor.method)
        quantised = self._vector(tensor, W, collected)
        return Finished(tensor, quantised, tensor.method, plain_error(W, quantised))

    def _written(self, finished: Finished, weight: Tensor) -> Tensor | QuantizedMatrix:
        """Writes it; -> what the forward continues with in place of `weight`."""
        self._report(finished)
        quantised, tensor = finished.quantised, finished.tensor
        if _is_matrix(tensor):
            return QuantizedMatrix(quantised, weight.device, tensor.transform)
        return torch.from_numpy(quantised.decode().reshape(weight.shape)).to(weight.device)

    def _vector(self, tensor: PlannedTensor, W: Tensor, collected: Collected) -> QTensor:
        """W (1, width) by the plan's setting, or by codebooks weighted with what the vector is multiplied with, if the recipe says so."""
        assert tensor.setting is not None
        reading = self._recipe.vector_weights
        if reading == "none":
            return quantize_matrix(tensor.setting.plain, replace(self._recipe.quantizer, clip_search="weight"), W, None)
        weights = collected.importance[str(tensor.spec.partner)].weights
        return vector_codebook(W[0], weights, tensor.setting.codec.code_bits, reading)

    def _report(self, finished: Finished) -> None:
        tensor, method, error = finished.tensor, finished.method, finished.error
        if tensor.name in self._writer:
            return  # an earlier run has spooled it; only its weights were needed again
        extra: dict[str, Any] = {"relative_error": error} if error is not None and math.isfinite(error) else {}
        if finished.folded_into:
            extra["scale_folded_into"] = list(finished.folded_into)
        if tensor.name in self._rotated:
            extra["rotation_folded_into"] = list(self._rotated[tensor.name])
        entry = self._writer.add(
            tensor.name,
            finished.quantised,
            role=str(tensor.spec.role),
            method=method,
            source_shape=tensor.source_shape,
            transposed=tensor.spec.transposed,
            layout=tensor.layout,
            input_transform=tensor.transform,
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
                source_bytes=round(count * (self._checkpoint.tensors | self._checkpoint.carried)[tensor.source].bits / 8),
                stored_bytes=tensor.stored_bytes,
            )
        )


def _dense(values: NDArray[np.float32], bits: int) -> DenseTensor:
    return DenseTensor(values.astype(np.float16) if bits == 16 else values.astype(np.float32))


def _is_matrix(tensor: PlannedTensor) -> bool:
    """Whether it is quantised as a matrix, in a task with the others of its input."""
    return tensor.setting is not None and tensor.spec.role is not Role.ELEMENTWISE
