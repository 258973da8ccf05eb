"""Scores whose answers are known without running anything."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.errors import ImageError
from rwkvquant.evaluation.images import compare_many, evaluate
from rwkvquant.evaluation.images.coco import Coco
from rwkvquant.evaluation.images.pixels import PixelScores
from rwkvquant.images import Batch
from rwkvquant.kernels.boxes import Boxes
from tests.evaluation.images.toys import GRID, MODELS, PATCH, Toy, numbered, random


def ranked(order: list[list[int]], classes: int) -> torch.Tensor:
    """Logits that put the classes in this order."""
    logits = torch.full((len(order), classes), -9.0)
    for image, best in enumerate(order):
        for place, kind in enumerate(best):
            logits[image, kind] = -place
    return logits


def test_top_1_and_top_5_count_the_images_whose_class_is_among_the_likeliest() -> None:
    model = Toy("classify", ranked([[0, 1, 2, 3, 4, 5], [1, 0, 2, 3, 4, 5], [5, 4, 3, 2, 0, 1], [5, 4, 3, 2, 1, 0]], 6))
    result = evaluate(model, numbered(4, labels=np.zeros(4, int)), batch=3).result(resamples=50)
    assert (result.top1, result.top5) == (0.25, 0.75) and result.images == 4
    assert result.top1_ci95[0] <= 0.25 <= result.top1_ci95[1] and result.top5_ci95 is not None


def test_top_5_of_five_classes_says_nothing() -> None:
    result = evaluate(Toy("classify", random(4, 5)), numbered(4, labels=np.zeros(4, int))).result(resamples=5)
    assert result.top5 is None and result.top5_ci95 is None


def test_miou_is_the_mean_over_classes_of_intersection_over_union() -> None:
    """Two images of 2 x 2 pixels. Class 0: 2 of 4 pixels agree; class 1: 3 of 5; class 2: none has it; 255 does not count."""
    masks = np.array([[[0, 0], [1, 1]], [[1, 1], [0, 255]]], np.uint8)
    predicted = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [1, 0]]])
    logits = torch.nn.functional.one_hot(predicted, 3).movedim(-1, 1).float()
    scores = PixelScores(masks, 3)
    for index in range(2):
        scores.add(Batch(slice(index, index + 1), np.zeros((1, 2, 2, 3), np.uint8), np.array([[2, 2]])), (logits[index : index + 1],))
    values = scores.values(np.ones(2, int))
    assert values == {"miou": pytest.approx((2 / 4 + 3 / 5) / 2), "pixel_accuracy": pytest.approx(5 / 7)}
    assert scores.details() == {"iou": (0.5, 0.6, None)}
    assert scores.values(np.array([2, 0]))["miou"] == pytest.approx((2 / 3 + 1 / 2) / 2)  # the first image alone, twice


def test_logits_are_resized_to_labels_of_another_size() -> None:
    labels = np.zeros((1, 4, 6), np.uint8)
    labels[:, :, 3:] = 1
    logits = torch.zeros(1, 2, 8, 12)
    logits[:, 1, :, 6:] = 9
    result = evaluate(Toy("segment", logits), numbered(1, labels=labels)).result(resamples=2)
    assert result.miou == result.pixel_accuracy == 1 and result.miou_ci95 is None


def found(*boxes: tuple[float, float, float, float, int, float]) -> Boxes:
    rows = np.array(boxes, np.float64).reshape(-1, 6)
    return Boxes(rows[:, :4], rows[:, 4].astype(int), rows[:, 5])


TRUE = np.array([[0, 0, 10, 10, 0], [20, 20, 40, 40, 0], [5, 5, 25, 25, 1]], np.float32)
ALL = found((0, 0, 10, 10, 0, 0.9), (20, 20, 40, 40, 0, 0.8), (5, 5, 25, 25, 1, 0.7))
ONCE = np.ones(1, int)


def test_boxes_that_are_all_right_have_a_precision_of_1() -> None:
    np.testing.assert_allclose(Coco([TRUE], [ALL], 2).average_precisions(ONCE), 1)


def test_no_boxes_have_a_precision_of_0_and_an_absent_class_has_none() -> None:
    precisions = Coco([TRUE], [found()], 3).average_precisions(ONCE)
    np.testing.assert_array_equal(precisions[:, :2], 0)
    assert np.isnan(precisions[:, 2]).all()


def test_a_missing_box_costs_its_recall_and_a_wrong_one_precision_after_it() -> None:
    """Of two true boxes one is found: precision 1 up to a recall of 1/2, at 51 of 101 recalls. A worse wrong box changes nothing."""
    half = [(0, 0, 10, 10, 0, 0.9)]
    assert Coco([TRUE[:2]], [found(*half)], 1).average_precisions(ONCE)[0, 0] == pytest.approx(51 / 101)
    assert Coco([TRUE[:2]], [found(*half, (50, 50, 60, 60, 0, 0.1))], 1).average_precisions(ONCE)[0, 0] == pytest.approx(51 / 101)
    before = Coco([TRUE[:2]], [found(*half, (50, 50, 60, 60, 0, 0.95))], 1)  # now the wrong one comes first: 1 of 2 is right
    assert before.average_precisions(ONCE)[0, 0] == pytest.approx(51 / 101 / 2)


def test_a_shifted_box_is_right_at_small_overlaps_only() -> None:
    """Moved by 1 of 10 pixels: 90 of 110 overlap, .818: right at .50 to .80, wrong at .85 to .95."""
    precisions = Coco([TRUE[:1]], [found((1, 0, 11, 10, 0, 0.9))], 1).average_precisions(ONCE)[:, 0]
    np.testing.assert_allclose(precisions, [1] * 7 + [0] * 3)


def test_images_count_as_often_as_they_are_drawn() -> None:
    truth, boxes = [TRUE[:1], TRUE[1:2], TRUE[:2]], [found((0, 0, 10, 10, 0, 0.5)), found((0, 0, 5, 5, 0, 0.9)), ALL]
    coco = Coco(truth, boxes, 2)
    for times in ([1, 0, 0], [0, 1, 0], [2, 1, 0], [1, 1, 3]):
        drawn = np.repeat(np.arange(3), times)
        expected = Coco([truth[i] for i in drawn], [boxes[i] for i in drawn], 2).average_precisions(np.ones(len(drawn), int))
        np.testing.assert_allclose(coco.average_precisions(np.array(times)), expected)


def sharp_detector() -> Toy:
    """Finds one box of class 1 around the middle of the patch at row 1, column 2: 4 x 4 pixels from (8, 4)."""
    classes = torch.full((1, 2, *GRID), -20.0)
    classes[0, 1, 1, 2] = 20
    return Toy("detect", classes, torch.full((1, 4, *GRID), np.log(0.5)), torch.full((1, 1, *GRID), 20.0))


@pytest.mark.parametrize("scale", [1, 5])
def test_boxes_are_scored_in_the_sets_own_pixels(scale: int) -> None:
    boxes = np.array([[8, 4, 12, 8, 1]], np.float32) * np.array([scale] * 4 + [1])
    size = (GRID[0] * PATCH * scale, GRID[1] * PATCH * scale)
    images = numbered(1, size, boxes=boxes, box_image=np.zeros(1, int))
    result = evaluate(sharp_detector(), images).result(resamples=3)
    assert (result.ap, result.ap50) == pytest.approx((1, 1)) and result.ap50_of_class == (None, pytest.approx(1))


@pytest.mark.parametrize("task", MODELS)
def test_a_set_without_the_labels_of_the_head_is_refused(task: str) -> None:
    needed = {"classify": "labels, or a folder for each class", "segment": "`labels` of pixels", "detect": "`boxes`"}[task]
    with pytest.raises(ImageError, match=f"toy.npz: to measure a model that can {task}, a set needs {needed}"):
        evaluate(MODELS[task](), numbered(4))


def test_boxes_of_unknown_classes_are_refused() -> None:
    images = numbered(4, boxes=np.array([[0, 0, 1, 1, 2]], np.float32), box_image=np.zeros(1, int))
    with pytest.raises(ImageError, match="classes of boxes must be below 2"):
        evaluate(MODELS["detect"](), images)


def test_a_comparison_on_labels_has_both_scores_and_their_paired_difference() -> None:
    right = ranked([[0], [0], [0], [0]], 6)
    wrong = ranked([[0], [1], [0], [0]], 6)
    labels = np.zeros(4, int)
    result = compare_many(Toy("classify", right), {"q": Toy("classify", wrong)}, numbered(4, labels=labels))["q"].result(resamples=200)
    assert (result.score, result.score_base, result.score_quantized, result.delta_score) == ("top1", 1.0, 0.75, -0.25)
    assert result.delta_score_ci95 is not None and -1 <= result.delta_score_ci95[0] <= -0.25 <= result.delta_score_ci95[1] <= 0
    assert result.top1_agreement == 0.75
