"""A class for each pixel. Positions are the pixels of the image as the model reads it, after the logits were resized to them.

    mIoU            mean over classes of  both / either,  of the pixels of the whole set that have the class in the labels, in the
                    prediction, in both or in either; classes without such a pixel are left out
    pixel_accuracy  the share of pixels whose class is predicted

Pixels whose label is no class do not count. Where labels have another size than the model reads, logits are resized to it bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from rwkvquant.architectures import Dims
from rwkvquant.evaluation.bootstrap import RESAMPLES
from rwkvquant.evaluation.images.head import Outputs, Predictor, categorical
from rwkvquant.images import Batch, ImageSet
from rwkvquant.results import SegmentationScores


class PixelHead:
    result: type[Any] = SegmentationScores
    resamples = RESAMPLES

    def run(self, model: Predictor, images: NDArray[np.uint8]) -> Outputs:
        return (model.segment(images),)  # (B, K, height, width)

    def divergence(self, p: Outputs, q: Outputs) -> tuple[torch.Tensor, torch.Tensor, int]:
        kl = torch.stack([categorical(*(logits.movedim(0, -1) for logits in pair)).sum() for pair in zip(p[0], q[0], strict=True)])
        same = (p[0].argmax(1) == q[0].argmax(1)).sum((1, 2))
        return kl, same, p[0].shape[2] * p[0].shape[3]

    def scores(self, images: ImageSet, classes: Sequence[str], dims: Dims) -> PixelScores | None:
        return None if images.masks is None else PixelScores(images.masks, dims.classes)


class PixelScores:
    def __init__(self, masks: NDArray[np.uint8], classes: int) -> None:
        self._masks = masks
        # (N, K) pixels of each image: of both, predicted, labelled
        self._both, self._predicted, self._labelled = (np.zeros((len(masks), classes), np.int64) for _ in range(3))

    def add(self, batch: Batch, outputs: Outputs) -> None:
        logits = outputs[0]
        if logits.shape[2:] != self._masks.shape[1:]:
            logits = functional.interpolate(logits, size=self._masks.shape[1:], mode="bilinear", align_corners=False)
        chosen = logits.argmax(1).cpu().numpy()
        classes = self._both.shape[1]
        for index, labels, predicted in zip(range(batch.span.start, batch.span.stop), self._masks[batch.span], chosen, strict=True):
            counted = labels < classes
            labels, predicted = labels[counted], predicted[counted]
            for sums, of in ((self._both, labels[labels == predicted]), (self._predicted, predicted), (self._labelled, labels)):
                sums[index] = np.bincount(of, minlength=classes)

    def values(self, times: NDArray[np.int64]) -> dict[str, float]:
        iou = self._iou(times)
        right, counted = times @ self._both.sum(1), times @ self._labelled.sum(1)
        return {"miou": float(iou[~np.isnan(iou)].mean()) if counted else 0.0, "pixel_accuracy": float(right / max(1, counted))}

    def details(self) -> dict[str, Any]:
        iou = self._iou(np.ones(len(self._masks), np.int64))
        return {"iou": tuple(None if np.isnan(share) else float(share) for share in iou)}

    def _iou(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,); NaN for a class that no counted pixel has."""
        both, either = times @ self._both, times @ (self._predicted + self._labelled - self._both)
        return np.where(either > 0, both / np.maximum(either, 1), np.nan)
