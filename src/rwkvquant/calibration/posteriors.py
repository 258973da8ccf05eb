"""-log p of an answer that is drawn from the model's own posterior, for each kind of answer. sensitivity.py differentiates it.

    tokens     logits (..., K)             one answer a row: the next token, or the class of an image
    pixels     logits (B, K, rows, cols)   the class of every pixel
    boxes      classes (B, K, ...), sides (B, 4, ...), centre (B, 1, ...), logits and logarithms as models/vrwkv.py gives them
    features   (B, C, rows, columns)       for a model without a head that we know

An answer for boxes is drawn patch by patch: which classes are there, each on its own; and where one is there, whether the patch is at
the centre, and the logarithms of the four sides, which are normal with the deviation SIDE around what the model says. Features
are normal with the deviation 1. A deviation only says how much such an error matters next to others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 0.1  # a tenth of the distance to the side of a box

Posterior = Callable[[Any, torch.Generator], Tensor]  # what the head gives, draws -> the sum of -log p of what was drawn


def tokens(logits: Tensor, draws: torch.Generator) -> Tensor:
    log_p = torch.log_softmax(logits, -1).flatten(0, -2)
    drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=draws).to(log_p.device)
    return (-log_p.gather(1, drawn)).sum()


def pixels(logits: Tensor, draws: torch.Generator) -> Tensor:
    return tokens(logits.movedim(1, -1), draws)


def boxes(output: tuple[Tensor, Tensor, Tensor], draws: torch.Generator) -> Tensor:
    classes, sides, centre = output
    there, central = (_bernoulli(logits, draws) for logits in (classes, centre))
    any_there = there.amax(1, keepdim=True)  # (B, 1, rows, columns)
    noise = torch.randn(sides.shape, generator=draws).to(sides)  # -log p of sides + SIDE * noise has the gradient -noise / SIDE
    return (
        functional.binary_cross_entropy_with_logits(classes, there, reduction="sum")
        + (any_there * functional.binary_cross_entropy_with_logits(centre, central, reduction="none")).sum()
        - (any_there * noise / SIDE * sides).sum()
    )


def features(output: Tensor, draws: torch.Generator) -> Tensor:
    return -(torch.randn(output.shape, generator=draws).to(output) * output).sum()


def _bernoulli(logits: Tensor, draws: torch.Generator) -> Tensor:
    return torch.bernoulli(torch.sigmoid(logits.detach()).cpu(), generator=draws).to(logits)


OF_TASK: dict[str | None, Posterior] = {"classify": tokens, "segment": pixels, "detect": boxes, None: features}
