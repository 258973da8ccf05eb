"""Boxes of a detector: the corners by hand, and the rule of overlaps against all pairs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.kernels.boxes import box_corners, find_boxes, overlap, without_overlap


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def test_corners_are_around_the_middle_of_the_patch() -> None:
    sides = np.log(np.array([1.0, 2.0, 0.5, 0.25]))[:, None, None] * np.ones((1, 3, 4))
    corners = box_corners(sides, 8, 100, 100)
    np.testing.assert_allclose(corners[1 * 4 + 2], [20 - 8, 12 - 16 + 4, 20 + 4, 12 + 2])  # row 1, column 2; the top ends at 0
    assert np.array_equal(box_corners(np.full((4, 1, 1), 1e4), 8, 30, 50), [[0, 0, 50, 30]])


def test_overlap_by_hand() -> None:
    others = np.array([[0, 0, 2, 2], [1, 0, 3, 2], [2, 0, 4, 2], [0, 0, 1, 1], [5, 5, 5, 9]], float)
    np.testing.assert_allclose(overlap(others[0], others), [1, 2 / 6, 0, 1 / 4, 0])
    assert overlap(others[4], others[4:]) == 0


@settings(deadline=None)
@given(st.integers(0, 30), st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 999))
def test_kept_boxes_do_not_overlap_and_each_left_out_overlaps_a_better_one(count: int, most: float, seed: int) -> None:
    start = np.random.default_rng(seed).integers(0, 10, (count, 2))
    corners = np.concatenate([start, start + np.random.default_rng(seed + 1).integers(1, 9, (count, 2))], 1).astype(float)
    kept = without_overlap(corners, most)
    assert kept == sorted(kept)
    for index in range(count):
        better = [other for other in kept if other < index]
        collides = bool(better) and overlap(corners[index], corners[better]).max() > most
        assert (index in kept) == (not collides)


def test_each_class_has_its_own_boxes_the_best_first() -> None:
    """Two neighbouring patches say nearly the same box, of class 1; the first says class 0 too."""
    classes = np.full((2, 1, 3), -50.0)
    classes[1, 0, :2] = logit(0.9), logit(0.8)
    classes[0, 0, 0] = logit(0.5)
    sides = np.log(np.full((4, 1, 3), 4.0))
    centre = np.full((1, 1, 3), logit(0.5))
    boxes = find_boxes(classes, sides, centre, 8, 64, 64)
    assert boxes.classes.tolist() == [1, 0]
    np.testing.assert_allclose(boxes.scores, np.sqrt([0.45, 0.25]))
    np.testing.assert_allclose(boxes.corners, [[0, 0, 36, 36]] * 2)
    assert find_boxes(classes, sides, centre, 8, 64, 64, max_overlap=1.0).classes.tolist() == [1, 1, 0]
    assert find_boxes(classes, sides, centre, 8, 64, 64, max_boxes=1).classes.tolist() == [1]
    assert len(find_boxes(classes - 90, sides, centre, 8, 64, 64).scores) == 0
