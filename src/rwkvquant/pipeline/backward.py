"""The pass backward over a sample of the calibration text (calibration/sensitivity.py): how much of it, and for which model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.calibration.sensitivity import Backward, ModelParts
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models import CheckpointSource, forward_of
from rwkvquant.pipeline.forward import is_large, multiplied
from rwkvquant.recipes import Recipe

SAMPLED_ROWS = 32  # calibration rows that it reads
ROWS_OF_LARGE = 12  # of large models; each row costs a forward pass, a backward pass, and its part of every Hessian


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
        multiplied=multiplied(recipe, checkpoint.architecture),
    )
    rows = tokens[: ROWS_OF_LARGE if is_large(checkpoint) else SAMPLED_ROWS]
    return Backward(parts, rows, recipe.calibration.batch, work_dir, recipe.seed)
