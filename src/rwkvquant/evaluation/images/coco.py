"""Average precision by pycocotools, COCO's own code. The only file that imports it.

Boxes are matched to the true ones once. For the bootstrap, the matches of each image are counted as often as the image was drawn.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.boxes import MAX_BOXES, Boxes


class Coco:
    def __init__(self, truth: Sequence[NDArray[np.float32]], found: Sequence[Boxes], classes: int) -> None:
        """For each image: true boxes (n, 5) left, top, right, bottom, class; and those found. Raises ConfigError without pycocotools."""
        try:
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval
        except ImportError:
            raise ConfigError(
                "the precision of boxes is computed by the pycocotools package; install it: pip install 'rwkv-hybridquant[coco]'"
            ) from None

        def dataset(boxes: list[dict[str, Any]]) -> Any:
            made = COCO()
            numbered = [{**box, "id": number} for number, box in enumerate(boxes, 1)]  # 0 would mean "not matched"
            made.dataset = {"images": [{"id": i} for i in range(len(truth))], "categories": [{"id": k} for k in range(classes)]}
            made.dataset["annotations"] = numbered
            made.createIndex()
            return made

        true = [_box(image, row[:4], int(row[4])) for image, boxes in enumerate(truth) for row in boxes]
        best = [
            {**_box(image, corners, int(kind)), "score": float(score)}
            for image, boxes in enumerate(found)
            for corners, kind, score in zip(boxes.corners, boxes.classes, boxes.scores, strict=True)
        ]
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            self._eval = COCOeval(dataset(true), dataset(best), "bbox")
            self._eval.params.areaRng, self._eval.params.areaRngLbl = [[0, 1e10]], ["all"]
            self._eval.params.maxDets = [MAX_BOXES]
            self._eval.evaluate()
        self._images, self._classes = len(truth), classes
        self._of_image = self._eval.evalImgs  # class by class, each (images,)

    def average_precisions(self, times: NDArray[np.int64]) -> NDArray[np.float64]:
        """(10, K): of each overlap 0.50 ... 0.95 and class, if image i counts times[i] times. NaN for a class without true boxes."""
        drawn = np.repeat(np.arange(self._images), times)
        self._eval.evalImgs = [self._of_image[kind * self._images + image] for kind in range(self._classes) for image in drawn]
        self._eval.params.imgIds = self._eval._paramsEval.imgIds = list(range(len(drawn)))
        with contextlib.redirect_stdout(io.StringIO()):
            self._eval.accumulate()
        precision = self._eval.eval["precision"][:, :, :, 0, 0]  # (10, 101, K), -1 where a class has no true box
        return np.where((precision < 0).any(1), np.nan, precision.mean(1))


def _box(image: int, corners: NDArray[Any], kind: int) -> dict[str, Any]:
    left, top, right, bottom = (float(value) for value in corners)
    size = right - left, bottom - top
    return {"image_id": image, "category_id": kind, "bbox": [left, top, *size], "area": size[0] * size[1], "iscrowd": 0}
