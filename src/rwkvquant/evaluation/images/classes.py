"""A class for each image. One position: KL is that of the classes' probabilities, softmax over K logits.

top1, top5   the share of images whose class is the likeliest one, or among the five likeliest; top5 is None for 5 classes or fewer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import Dims
from rwkvquant.evaluation.bootstrap import RESAMPLES
from rwkvquant.evaluation.images.head import Outputs, Predictor, categorical
from rwkvquant.images import Batch, ImageSet
from rwkvquant.results import ClassificationScores


class ClassHead:
    result: type[Any] = ClassificationScores
    resamples = RESAMPLES

    def run(self, model: Predictor, images: NDArray[np.uint8]) -> Outputs:
        return (model.classify(images),)

    def divergence(self, p: Outputs, q: Outputs) -> tuple[torch.Tensor, torch.Tensor, int]:
        return categorical(p[0], q[0]), p[0].argmax(-1) == q[0].argmax(-1), 1

    def scores(self, images: ImageSet, classes: Sequence[str], dims: Dims) -> ClassScores | None:
        labels = images.classes_of(classes, dims.classes)
        return None if labels is None else ClassScores(labels, dims.classes)


class ClassScores:
    def __init__(self, labels: NDArray[np.int64], classes: int) -> None:
        self._labels, self._classes = labels, classes
        self._rank = np.zeros(len(labels), np.int64)  # how many classes are likelier than the true one

    def add(self, batch: Batch, outputs: Outputs) -> None:
        logits = outputs[0].cpu().numpy()
        order = np.argsort(-logits, axis=1, kind="stable")
        self._rank[batch.span] = (order == self._labels[batch.span, None]).argmax(1)

    def values(self, times: NDArray[np.int64]) -> dict[str, float]:
        most = (1, 5) if self._classes > 5 else (1,)
        return {f"top{n}": float(times[self._rank < n].sum() / times.sum()) for n in most}

    def details(self) -> dict[str, Any]:
        return {}
