"""What measuring needs to know of a kind of head.

B  images of a batch    N  images of the set    K  classes
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.images import Batch, ImageSet

Outputs = tuple[Tensor, ...]


class Predictor(Protocol):
    """Any model for images: models.ImageModel, or a small test model with a known answer. Images are (B, height, width, 3) uint8."""

    @property
    def task(self) -> str | None: ...
    @property
    def dims(self) -> Dims: ...
    @property
    def settings(self) -> ImageSettings: ...
    def classify(self, images: NDArray[np.uint8]) -> Tensor: ...
    def segment(self, images: NDArray[np.uint8]) -> Tensor: ...
    def detect(self, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor, Tensor]: ...


class Scores(Protocol):
    """How good one model is on labels; filled batch by batch."""

    def add(self, batch: Batch, outputs: Outputs) -> None: ...
    def values(self, times: NDArray[np.int64]) -> dict[str, float]:
        """Each score, from 0 to 1, if image i of the set counts times[i] times. The first is the main one."""
        ...

    def details(self) -> dict[str, Any]:
        """Other fields of the result, of the whole set."""
        ...


class Head(Protocol):
    """`result`: what a measurement returns. `resamples`: of the bootstrap of its scores. `top5`, ...: see the files."""

    result: type[Any]
    resamples: int

    def run(self, model: Predictor, images: NDArray[np.uint8]) -> Outputs: ...
    def divergence(self, p: Outputs, q: Outputs) -> tuple[Tensor, Tensor, int]:
        """For each image, (B,): the sum of KL(p || q) over its positions in nats, and at how many both predict the same.

        Third: how many positions an image has.
        """
        ...

    def scores(self, images: ImageSet, classes: Sequence[str], dims: Dims) -> Scores | None:
        """None if the set has no labels of this kind. Raises ImageError if they do not fit the model."""
        ...


def categorical(p: Tensor, q: Tensor) -> Tensor:
    """(..., K) logits, twice -> (...) KL of softmax(p) and softmax(q), in float64."""
    log_p, log_q = (torch.log_softmax(logits, -1, dtype=torch.float64) for logits in (p, q))
    return torch.linalg.vecdot(log_p.exp(), log_p - log_q)
