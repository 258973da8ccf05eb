"""Calibration images: some of a set, as the model reads them."""

from __future__ import annotations

import os
import random

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.images import open_image_set, preprocessing_for
from rwkvquant.kernels.images import normalized

BATCH = 64


def calibration_images(path: str | os.PathLike[str], checkpoint: Checkpoint, count: int, seed: int = 0) -> NDArray[np.float32]:
    """At most `count` images of a set, evenly spread, in an order drawn by `seed` -> (count, 3, height, width), normalised.

    So the first and the last of them have images of all classes, though folders are sorted by class. Raises ImageError for what is no set
    of images, ConfigError without Pillow.
    """
    settings = checkpoint.image
    assert settings is not None, "a model for images"
    how = preprocessing_for(settings, checkpoint.dims.patch, checkpoint.architecture.task_in(checkpoint.tensors))
    parts = [normalized(part.pixels, settings.mean, settings.std) for part in open_image_set(path).some(count).batches(how, BATCH)]
    images = np.concatenate(parts)
    order = list(range(len(images)))
    random.Random(seed).shuffle(order)
    return images[order]
