"""Calibration images: some of a set, as the model reads them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import CalibrationError
from rwkvquant.kernels.images import normalized


def calibration_images(path: Path | str, checkpoint: Checkpoint, count: int, seed: int = 0) -> NDArray[np.float32]:
    """At most `count` images of a set, drawn by `seed` -> (count, 3, height, width), normalised. Raises CalibrationError for no set."""
    try:
        images = np.load(path)["images"]
    except (OSError, ValueError, KeyError) as error:
        raise CalibrationError(f"cannot read images from {path}: {error}") from error
    chosen = list(range(len(images)))
    random.Random(seed).shuffle(chosen)
    assert checkpoint.image is not None
    return normalized(images[chosen[:count]], checkpoint.image.mean, checkpoint.image.std)
