"""The pass backward over a sample of the calibration text (calibration/sensitivity.py): how much of it, and for which model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.calibration.sensitivity import Backward, ModelParts
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models import CheckpointSource, forward_of
from rwkvquant.recipes import Recipe

SAMPLED_ROWS = 32  # calibration rows that it reads
LARGE_MODEL, ROWS_OF_LARGE = 1 << 28, 12  # weights; each row costs a forward pass, a backward pass, and its part of every Hessian


def backward_pass(checkpoint: Checkpoint, recipe: Recipe, tokens: NDArray[np.int64], work_dir: Path, device: torch.device) -> Backward:
    """The first of the rows of `tokens` (rows, length), in the model with its original weights. Nothing has run yet."""
    source, module = CheckpointSource(checkpoint, device), forward_of(checkpoint.arch)
    parts = ModelParts(
        architecture=checkpoint.architecture,
        embed=module.embed,
        block=module.block,
        head=module.head,
        globals=source.globals,
        weights_of=source.block,
        layers=checkpoint.dims.layers,
        width=checkpoint.dims.width,
        device=device,
    )
    weights = sum(math.prod(m.shape) for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES)
    rows = tokens[: SAMPLED_ROWS if weights < LARGE_MODEL else ROWS_OF_LARGE]
    return Backward(parts, rows, recipe.calibration.batch, work_dir, recipe.seed)
