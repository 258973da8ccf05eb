"""Boxes from what a detector says of each patch (FCOS, arXiv:1904.01355, with one level).

A patch at row r and column c has its middle at ((c + 1/2) P, (r + 1/2) P) pixels. The logarithms of the distances to the four sides of a
box are in patches: left = P e^{s_0}, then top, right, bottom. The score of a class is sqrt(sigmoid(class) sigmoid(centre-ness)).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rwkvquant.kernels.functions import Array, sigmoid

MIN_SCORE, MAX_OVERLAP, MAX_BOXES = 0.05, 0.5, 100
MAX_LOG = 20.0  # of a side in patches: beyond every image, and far from overflow


@dataclass(frozen=True)
class Boxes:
    """The boxes of one image, the best first: `corners` (n, 4) left, top, right, bottom in pixels, `classes` (n,) and `scores` (n,)."""

    corners: Array
    classes: Array
    scores: Array


def find_boxes(
    classes: Array,
    sides: Array,
    centre: Array,
    patch: int,
    height: int,
    width: int,
    min_score: float = MIN_SCORE,
    max_overlap: float = MAX_OVERLAP,
    max_boxes: int = MAX_BOXES,
) -> Boxes:
    """Of one image: classes (K, rows, columns), sides (4, rows, columns), centre (1, rows, columns), as `detect` of vrwkv.py gives them.

    Boxes end at the image's sides. In each class, a box is left out if it overlaps a better one by more than `max_overlap` of their union.
    """
    scores = np.sqrt(sigmoid(classes) * sigmoid(centre))
    corners = box_corners(sides, patch, height, width)
    kept: list[tuple[float, int, int]] = []  # score, class, patch
    for kind, of_class in enumerate(scores.reshape(len(scores), -1)):
        candidates = np.flatnonzero(of_class > min_score)
        candidates = candidates[np.argsort(-of_class[candidates], kind="stable")]
        kept += [(float(of_class[place]), kind, int(place)) for place in candidates[without_overlap(corners[candidates], max_overlap)]]
    kept = sorted(kept, key=lambda box: -box[0])[:max_boxes]
    places = np.array([place for *_, place in kept], int)
    kinds = np.array([kind for _, kind, _ in kept], int)
    return Boxes(corners[places], kinds, np.array([score for score, *_ in kept], scores.dtype))


def box_corners(sides: Array, patch: int, height: int, width: int) -> Array:
    """sides (4, rows, columns) -> (rows * columns, 4): left, top, right, bottom in pixels of the image."""
    _, rows, columns = sides.shape
    y, x = (np.arange(rows) + 0.5)[:, None] * patch, (np.arange(columns) + 0.5) * patch
    left, top, right, bottom = np.exp(np.minimum(sides, MAX_LOG)) * patch
    corners = np.stack([x - left, y - top, x + right, y + bottom], axis=-1).reshape(-1, 4)
    return np.clip(corners, 0, np.array([width, height, width, height])).astype(sides.dtype)


def without_overlap(corners: Array, most: float) -> list[int]:
    """Boxes (n, 4), the best first -> the indices of those that overlap no better one that is kept by more than `most`."""
    left = list(range(len(corners)))
    kept = []
    while left:
        best, *rest = left
        kept.append(best)
        overlaps = overlap(corners[best], corners[rest])
        left = [index for index, share in zip(rest, overlaps, strict=True) if share <= most]
    return kept


def overlap(one: Array, others: Array) -> Array:
    """Intersection over union of a box (4,) with each of `others` (n, 4) -> (n,); 0 for boxes without area."""
    low, high = np.maximum(one[:2], others[:, :2]), np.minimum(one[2:], others[:, 2:])
    both = np.maximum(high - low, 0).prod(1)
    union = (one[2:] - one[:2]).prod() + (others[:, 2:] - others[:, :2]).prod(1) - both
    return both / np.where(union > 0, union, 1)
