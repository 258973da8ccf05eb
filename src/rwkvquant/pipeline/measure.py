"""Pass 1: every candidate of every matrix, tried on full-precision inputs, and the proxies. plan.json keeps the results of each block.

A candidate's loss is what it costs the model in nats per token, to second order (calibration/sensitivity.py), so losses of different
matrices can be added up and traded for bytes. Codes are chosen as in pass 2, with error feedback, but only for a sample of rows:
rows of a matrix do not depend on one another, or only inside a block of 16.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.calibration.sensitivity import Backward
from rwkvquant.calibration.statistics import Sensitivity
from rwkvquant.checkpoints import Checkpoint, LogicalMatrix
from rwkvquant.pipeline.allocation import give_back
from rwkvquant.pipeline.backward import backward_pass
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.executor import HERE, Executor
from rwkvquant.pipeline.matrices import SAMPLED_WEIGHTS, quantize_matrix, sampled_rows
from rwkvquant.pipeline.plan_file import Candidate, Measured, from_json, to_json
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import allowed_settings
from rwkvquant.pipeline.tasks import ROUNDS
from rwkvquant.pipeline.transforms import Transforms, for_setting, through
from rwkvquant.pipeline.work_dir import Journal
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_loss
from rwkvquant.recipes import Recipe, Setting
from rwkvquant.selection.proxy import ORDERS, READINGS, incoherence, proxies, saved_in
from rwkvquant.transforms import NONE, Applied

ALWAYS_PROXIES = 1 << 20  # weights; the proxies of larger matrices are computed when a rule asks for them (evidence.py)
TINY = 1e-300
LORA_CAUTION = 2.0  # their losses are underestimated: tanh and sigmoid follow them (docs/methods/selection.md)


@dataclass(frozen=True)
class Trial:
    """All candidates of one matrix W (out, in), as a task of an executor. dtype: of the checkpoint. transform: of the matrix's input."""

    matrix: LogicalMatrix
    W: Tensor
    sensitivity: Sensitivity
    settings: tuple[Setting, ...]
    recipe: Recipe
    dtype: str
    transform: Applied = NONE

    @property
    def name(self) -> str:
        return self.matrix.name

    @property
    def cost(self) -> float:
        """Multiply-adds, about: the factor of the Hessian, and a sample of rows for each candidate."""
        cols = self.W.shape[1]
        sampled = min(SAMPLED_WEIGHTS, self.W.numel())
        return float(cols**3 + sampled * sum(ROUNDS * cols + setting.work for setting in self.settings))

    def perform(self) -> Measured:
        return _measure_matrix(self)


def measure(
    checkpoint: Checkpoint,
    recipe: Recipe,
    calibration: Calibration,
    transforms: Transforms,
    work_dir: Path,
    device: torch.device,
    progress: Progress,
    journal: Journal,
    executor: Executor = HERE,
) -> dict[str, Measured]:
    """By logical name, for all projections and LoRA factors. Continues from what `journal` has, and notes every block there.

    `executor` tries the candidates.

    Raises StoppedError after a block if the caller asked to stop.
    """
    matrices = {(m.layer, m.key): m for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES}
    settings = allowed_settings(recipe, [m.name for m in matrices.values()], checkpoint.architecture, checkpoint.tensors)
    layers = checkpoint.dims.layers
    progress.phase("pass 1: sensitivities")
    backward = backward_pass(checkpoint, recipe, calibration, work_dir, device)
    measured = _kept(journal, backward)
    if measured is None:
        measured = {}
        backward.forward()
        _note(journal, backward, measured, "the forward run of pass 1")
    for layer, weights, sensitivities in backward.blocks():
        progress.phase(f"pass 1: candidates of block {layer + 1} of {layers}", steps=len(sensitivities))
        block = [matrices[layer, key] for key in sensitivities]
        trials = (
            Trial(
                matrix=m,
                W=weights[m.key],
                sensitivity=sensitivities.pop(m.key),
                settings=settings[m.name],
                recipe=recipe,
                dtype=checkpoint.tensors[m.source].dtype,
                transform=transforms.get(m.name, NONE),
            )
            for m in block
        )  # each is made when it is needed, and frees two large matrices when it is done
        for found in executor.run(trials):
            measured[found.name] = found
            progress.step()
        give_back()
        _note(journal, backward, measured, f"block {layer + 1} of {layers} of pass 1, which begins with the last block")
        progress.phase("pass 1: sensitivities")
    return {m.name: measured[m.name] for m in matrices.values()}


def _kept(journal: Journal, backward: Backward) -> dict[str, Measured] | None:
    """What an earlier run measured, with `backward` moved to the next block; None if there is nothing that can be used."""
    if journal.state is None:
        return None
    try:
        measured = from_json(journal.state["tensors"])
        if measured is not None and backward.restore(journal.state["backward"]):
            return measured
    except (KeyError, TypeError, ValueError):
        pass
    journal.start_again("does not match the data next to it")
    return None


def _note(journal: Journal, backward: Backward, measured: dict[str, Measured], after: str) -> None:
    if journal.lasting:
        journal.note({"complete": False, "backward": backward.state(), "tensors": to_json(measured)}, after)


def _measure_matrix(trial: Trial) -> Measured:
    """Candidates are tried on the transformed matrix and input, as in pass 2; losses are those of the matrix itself."""
    matrix, W, sensitivity = trial.matrix, trial.W, trial.sensitivity
    plain = Hessian(sensitivity.inputs.H, W.dtype)
    changed = plain if trial.transform.name == "none" else Hessian(through(trial.transform.hessian, plain.H), W.dtype)
    rows = sampled_rows(W.shape, SAMPLED_WEIGHTS)
    part = W[rows]
    energy = hessian_loss(part, None, plain.H)
    share = float(sensitivity.rows[rows].sum()) / max(float(sensitivity.rows.sum()), TINY)  # of the loss, if all rows had the same error
    caution = LORA_CAUTION if matrix.spec.role is Role.LORA else 1.0
    candidates, options = [], replace(trial.recipe.quantizer, refined=False)
    for setting in trial.settings:
        T = for_setting(trial.transform, setting)
        hessian = plain if T.name == "none" else changed
        decoded = T.undone(quantize_matrix(setting, options, through(T.weights, part), hessian).decode())
        error = hessian_loss(part, decoded, plain.H)
        loss = caution * sensitivity.loss(part - torch.from_numpy(decoded).to(W.device), rows) / max(share, TINY)
        candidates.append(Candidate(setting, setting.stored_bytes(matrix.shape), loss, error / energy if energy else 0.0))
    values = W.cpu().numpy()
    read = proxies_of(values, trial.dtype) if W.numel() <= ALWAYS_PROXIES else {}
    return Measured(matrix.name, W.numel(), read, incoherence(values), tuple(candidates))


def proxies_of(W: NDArray[np.float32], dtype: str) -> dict[str, dict[str, Any]]:
    """By reading; `dtype` is that of the checkpoint."""
    steps = saved_in(W, dtype)
    read = {reading: proxies(W, reading, steps) for reading in READINGS}
    return {
        reading: {
            "coarse": p.coarse,
            "fine": [p.fine(order) for order in ORDERS],
            "fine_signed": [p.fine(order, signed=True) for order in ORDERS],
            "statistics": p.statistics(),
        }
        for reading, p in read.items()
    }
