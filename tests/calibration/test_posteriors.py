"""Gradients by drawn answers have the variance of the posterior: their mean square is the diagonal of the Fisher matrix."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rwkvquant.calibration.posteriors import SIDE, boxes, features, pixels, tokens

DRAWS = 4000
WITHIN = 0.08  # of the largest value: five deviations of a mean over so many draws


def mean_square_of_gradients(loss: Callable[[Any, torch.Generator], Tensor], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All draws at once: each has a copy of the outputs, and a loss is a sum."""
    leaves = [output.repeat(DRAWS, *[1] * (output.ndim - 1)).requires_grad_(True) for output in outputs]
    loss(leaves[0] if len(leaves) == 1 else tuple(leaves), torch.Generator().manual_seed(0)).backward()
    found = []
    for output, leaf in zip(outputs, leaves, strict=True):
        assert leaf.grad is not None
        found.append(leaf.grad.view(DRAWS, *output.shape).square().mean(0))
    return found


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_classes_of_images_and_of_pixels() -> None:
    for loss, logits, axis in ((tokens, random(3, 5), 1), (tokens, random(2, 3, 5), 2), (pixels, random(2, 5, 3, 2), 1)):
        p = torch.softmax(logits, axis)
        (found,) = mean_square_of_gradients(loss, (logits,))
        torch.testing.assert_close(found, p * (1 - p), atol=WITHIN * 0.25, rtol=0)


def test_boxes_matter_where_a_class_is_there() -> None:
    classes, sides, centre = random(1, 3, 2, 2) - 1, random(1, 4, 2, 2), random(1, 1, 2, 2)
    p, q = torch.sigmoid(classes), torch.sigmoid(centre)
    there = 1 - (1 - p).prod(1, keepdim=True)
    found = mean_square_of_gradients(boxes, (classes, sides, centre))
    torch.testing.assert_close(found[0], p * (1 - p), atol=WITHIN * 0.25, rtol=0)
    torch.testing.assert_close(found[1], (there / SIDE**2).expand_as(sides), atol=WITHIN / SIDE**2, rtol=0)
    torch.testing.assert_close(found[2], there * q * (1 - q), atol=WITHIN * 0.25, rtol=0)


def test_features_all_count_equally() -> None:
    (found,) = mean_square_of_gradients(features, (random(2, 3, 2, 2),))
    torch.testing.assert_close(found, torch.ones_like(found), atol=2 * WITHIN, rtol=0)
