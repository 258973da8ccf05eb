"""Boxes. Positions are the patches of an image (FCOS, kernels/boxes.py). A patch predicts K classes, each there or not on its own; and
where one is there, whether the patch is at the centre, and the logarithms s of the four sides of the box, with the deviation SIDE of
calibration/posteriors.py.

    KL          sum_k B(p_k, q_k)  +  (1 - prod_k (1 - p_k)) (B(c_p, c_q) + sum of (s_p - s_q)^2 / (2 SIDE^2))
    B(a, b)     a ln(a / b) + (1 - a) ln((1 - a) / (1 - b)),  with a and b the sigmoid of logits
    same        the likeliest class is the same and both give it more than 1/2, or neither gives any class more than 1/2

    ap          COCO's: mean over classes and overlaps 0.50, 0.55 ... 0.95 of the precision at 101 recalls, at most 100 boxes an image
    ap50        the same at an overlap of 0.50
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import logsigmoid

from rwkvquant.architectures import Dims
from rwkvquant.calibration.posteriors import SIDE
from rwkvquant.errors import ImageError
from rwkvquant.evaluation.images.coco import Coco
from rwkvquant.evaluation.images.head import Outputs, Predictor
from rwkvquant.images import Batch, ImageSet
from rwkvquant.kernels.boxes import Boxes, find_boxes
from rwkvquant.results import DetectionScores


class PlaceHead:
    result: type[Any] = DetectionScores
    resamples = 500  # COCO's precision takes 10 ms for 72 images and 3 classes

    def run(self, model: Predictor, images: NDArray[np.uint8]) -> Outputs:
        return model.detect(images)

    def divergence(self, p: Outputs, q: Outputs) -> tuple[torch.Tensor, torch.Tensor, int]:
        (classes_p, sides_p, centre_p), (classes_q, sides_q, centre_q) = ([output.double() for output in outputs] for outputs in (p, q))
        any_there = -torch.expm1(logsigmoid(-classes_p).sum(1))  # (B, rows, columns)
        where_there = _bernoulli(centre_p, centre_q).sum(1) + (sides_p - sides_q).square().sum(1) / (2 * SIDE**2)
        kl = _bernoulli(classes_p, classes_q).sum(1) + any_there * where_there
        same = (_class_or_none(p[0]) == _class_or_none(q[0])).sum((1, 2))
        return kl.sum((1, 2)), same, kl.shape[1] * kl.shape[2]

    def scores(self, images: ImageSet, classes: Sequence[str], dims: Dims) -> PlaceScores | None:
        if images.boxes is None:
            return None
        if any(len(boxes) and not 0 <= boxes[:, 4].min() <= boxes[:, 4].max() < dims.classes for boxes in images.boxes):
            raise ImageError(f"{images.path}: classes of boxes must be below {dims.classes}, the classes of the model")
        return PlaceScores(images.boxes, dims)


def _bernoulli(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Logits, twice -> B of their sigmoids."""
    return p.sigmoid() * (logsigmoid(p) - logsigmoid(q)) + (-p).sigmoid() * (logsigmoid(-p) - logsigmoid(-q))


def _class_or_none(logits: torch.Tensor) -> torch.Tensor:
    """(B, K, rows, columns) -> (B, rows, columns): the likeliest class, or -1 if none has more than 1/2."""
    most, which = logits.max(1)
    return torch.where(most > 0, which, -1)


class PlaceScores:
    def __init__(self, truth: Sequence[NDArray[np.float32]], dims: Dims) -> None:
        self._truth, self._dims = truth, dims
        self._boxes: list[Boxes | None] = [None] * len(truth)
        self._coco: Coco | None = None

    def add(self, batch: Batch, outputs: Outputs) -> None:
        """Boxes are moved from the image that the model read to the set's own."""
        height, width = batch.pixels.shape[1:3]
        of_images = zip(range(batch.span.start, batch.span.stop), batch.sizes, *(output.cpu().numpy() for output in outputs), strict=True)
        for index, (rows, columns), classes, sides, centre in of_images:
            boxes = find_boxes(classes, sides, centre, self._dims.patch, height, width)
            scale = np.array([columns / width, rows / height] * 2)
            self._boxes[index] = Boxes(boxes.corners * scale, boxes.classes, boxes.scores)

    def values(self, times: NDArray[np.int64]) -> dict[str, float]:
        precisions = self._matched().average_precisions(times)
        return {"ap": _mean(precisions), "ap50": _mean(precisions[0])}

    def details(self) -> dict[str, Any]:
        of_class = self._matched().average_precisions(np.ones(len(self._truth), np.int64))[0]
        return {"ap50_of_class": tuple(None if np.isnan(value) else float(value) for value in of_class)}

    def _matched(self) -> Coco:
        if self._coco is None:
            self._coco = Coco(self._truth, [boxes for boxes in self._boxes if boxes is not None], self._dims.classes)
        return self._coco


def _mean(precisions: NDArray[np.float64]) -> float:
    """Over the classes that have boxes in the labels."""
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if len(known) else 0.0
