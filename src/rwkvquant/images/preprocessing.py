"""What is done to an image before a model reads it. The mean and deviation of colours are in kernels/images.py.

    classes, from 128 pixels a side on     mmcls 0.25 for released models: the short side becomes 256 for models of 224 pixels (and in
                                           the same proportion for others), bicubic; then the middle is cut out
    everything else                        the whole image is resized to the model's size, bilinear

An image that has the model's size is used as it is. Limit: released detectors and segmenters read larger images in their own proportions;
their heads are not ours, so nothing here runs them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures.image import ImageSettings
from rwkvquant.images.resample import BICUBIC, BILINEAR, resample

Pixels = NDArray[np.uint8]
SHORT_SIDE, SIDE = 256, 224  # of ImageNet's test images, and of what models read of them
SMALLEST_CUT = 128  # smaller models were trained on whole images


@dataclass(frozen=True)
class Preprocessing:
    """`height` and `width` of what the model reads. `cut`: its middle is cut out; else the whole image is resized, and may be stretched."""

    height: int
    width: int
    cut: bool = False

    def fit(self, image: Pixels) -> Pixels:
        """(rows, columns, 3) uint8 -> (height, width, 3) uint8."""
        rows, columns = image.shape[:2]
        if (rows, columns) == (self.height, self.width):
            return image
        if not self.cut:
            return resample(image, self.height, self.width, BILINEAR)
        short = round(max(self.height, self.width) * SHORT_SIDE / SIDE)
        scaled = (int(short * rows / columns), short) if columns < rows else (short, int(short * columns / rows))
        if min(rows, columns) != short:
            image = resample(image, *scaled, BICUBIC)
        top, left = (round((side - kept) / 2) for side, kept in zip(image.shape, (self.height, self.width), strict=False))
        return image[top : top + self.height, left : left + self.width]

    def batch(self, images: Iterable[Pixels]) -> Pixels:
        """-> (B, height, width, 3) uint8."""
        return np.stack([self.fit(image) for image in images])


def preprocessing_for(settings: ImageSettings, patch: int, task: str | None) -> Preprocessing:
    """For a model whose position embedding has the rows and columns of `settings.grid`, of patches of `patch` pixels a side.

    `task`: "classify", "segment", "detect" or None.
    """
    height, width = (side * patch for side in settings.grid)
    return Preprocessing(height, width, cut=task == "classify" and min(height, width) >= SMALLEST_CUT)
