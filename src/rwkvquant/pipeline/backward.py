"""The pass backward over a sample of the calibration (calibration/sensitivity.py): how much of it, and for which model."""

from __future__ import annotations

from pathlib import Path

import torch

from rwkvquant.calibration.posteriors import OF_TASK, tokens
from rwkvquant.calibration.sensitivity import Backward, ModelParts
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.forward import is_large, multiplied
from rwkvquant.pipeline.matrices import SAMPLED_WEIGHTS, sampled_rows
from rwkvquant.recipes import Recipe

SAMPLED_ROWS = 32  # rows of text that it reads
ROWS_OF_LARGE = 12  # of large models; each row costs a forward pass, a backward pass, and its part of every Hessian
LENGTH = 512  # of a row of text; of images there are more, as they have fewer patches


def backward_pass(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration, work_dir: Path, device: torch.device, groups: int = 0
) -> Backward:
    """The first of the rows that quantisers may see, in the model with its original weights. Nothing has run yet.

    `groups`: of the rows of each matrix. Then it is not asked for losses, but for the second moments of every group (guides.py).
    """
    source = CheckpointSource(checkpoint, device)
    of_images = checkpoint.image is not None
    parts = ModelParts(
        architecture=checkpoint.architecture,
        stages=calibration.stages,
        posterior=OF_TASK[checkpoint.architecture.task_in(checkpoint.tensors)] if of_images else tokens,
        answers=checkpoint.dims.patch**2 if of_images else 1,
        globals=source.globals,
        weights_of=source.block,
        layers=checkpoint.dims.layers,
        width=checkpoint.dims.width,
        device=device,
        multiplied=multiplied(recipe, checkpoint.architecture),
        rows_of_images=(lambda shape: sampled_rows(shape, SAMPLED_WEIGHTS)) if of_images and not groups else None,
        groups=groups,
    )
    count = ROWS_OF_LARGE if is_large(checkpoint) else SAMPLED_ROWS
    rows = calibration.seen[: count * LENGTH // calibration.length if of_images else count]
    return Backward(parts, rows, recipe.calibration.batch, work_dir, recipe.seed, calibration.length)
