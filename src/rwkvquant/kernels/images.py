"""Images as a model reads them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def normalized(images: NDArray[Any], mean: Sequence[float], std: Sequence[float]) -> NDArray[np.float32]:
    """(B, height, width) grey or (B, height, width, 3) red, green, blue, 0 to 255 -> (B, 3, height, width) float32.

    The colour's mean is subtracted, and the result divided by its deviation. Grey is the same value in all three channels.
    """
    if images.ndim == 3:
        images = np.repeat(images[..., None], len(mean), axis=-1)
    scaled = images.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    scaled -= np.asarray(mean, np.float32)[:, None, None]  # in place: a batch of photographs is large
    scaled /= np.asarray(std, np.float32)[:, None, None]
    return scaled
