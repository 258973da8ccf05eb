"""GuidedQuant's second moments: for groups of rows of each matrix, weighted by the gradients of these rows (arXiv:2505.07004).

One pass backward over a sample of the text finds them in the full-precision model, before pass 2. They wait in files: 4 bytes times
groups * in^2 for each matrix, which is most of the work directory of a job that uses them. A job that continues finds them again.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.pipeline.backward import backward_pass
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Recipe


class Guides:
    """(groups, in, in) float32 by tensor; None for tensors that have none, such as the head."""

    def __init__(self, folder: Path | None = None, device: torch.device | str = "cpu") -> None:
        self._folder, self._device = folder, device

    def of(self, name: str) -> Tensor | None:
        path = None if self._folder is None else self._folder / f"{name}.npy"
        return None if path is None or not path.exists() else torch.from_numpy(np.load(path)).to(self._device)


def guides_for(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None, work_dir: Path, device: torch.device, progress: Progress
) -> Guides:
    """Nothing for recipes that use none."""
    if not recipe.guided:
        return Guides()
    assert calibration is not None, "a recipe with guides reads text"
    folder = work_dir / "guides"
    folder.mkdir(parents=True, exist_ok=True)
    progress.phase("gradients of groups of rows")
    names = {(matrix.layer, matrix.key): matrix.name for matrix in checkpoint.logical_matrices()}
    backward = backward_pass(checkpoint, recipe, calibration, folder, device, recipe.guided)
    backward.forward()
    for layer, _, sensitivities in backward.blocks():
        for key, sensitivity in sensitivities.items():
            np.save(folder / f"{names[layer, key]}.npy", sensitivity.of_groups.cpu().numpy())
    return Guides(folder, device)
