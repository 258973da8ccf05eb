"""Models for images whose outputs are written down: image i of a set has i in all its pixels, and `outputs[i]` is what comes out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.images import ImageSet
from rwkvquant.images.image_set import image_set_of

PATCH, GRID = 4, (2, 3)


class Toy:
    """`outputs`: a list of tensors whose first axis is the image."""

    def __init__(self, task: str | None, *outputs: Tensor, grid: tuple[int, int] = GRID) -> None:
        self.task, self._outputs, self.calls = task, outputs, 0
        classes = outputs[0].shape[1] if outputs else 0
        self.dims, self.settings = Dims(1, 8, classes=classes, patch=PATCH), ImageSettings(grid, False)

    def _of(self, images: np.ndarray) -> tuple[Tensor, ...]:
        assert images.shape[1:] == (PATCH * self.settings.grid[0], PATCH * self.settings.grid[1], 3) and images.dtype == np.uint8
        self.calls += 1
        return tuple(output[images[:, 0, 0, 0].astype(int)] for output in self._outputs)

    def classify(self, images: np.ndarray) -> Tensor:
        return self._of(images)[0]

    segment = classify

    def detect(self, images: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return self._of(images)  # type: ignore[return-value]


def numbered(count: int, size: tuple[int, int] = (8, 12), **labels: np.ndarray) -> ImageSet:
    pixels = np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, *size, 3))
    return image_set_of("toy.npz", {"images": pixels, **labels})


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def detector(seed: int = 0, images: int = 4, classes: int = 2) -> Toy:
    outputs = (random(images, size, *GRID, seed=seed + size) for size in (classes, 4, 1))
    return Toy("detect", *outputs)


MODELS = {
    "classify": lambda seed=0: Toy("classify", random(4, 6, seed=seed)),
    "segment": lambda seed=0: Toy("segment", random(4, 3, 8, 12, seed=seed)),
    "detect": detector,
}
