"""In which numbers the text runs through the blocks: float32, or bfloat16 where that is faster and the model is large.

The products of projections are rounded (models/rounded.py), forward and backward, and the activations whose products are added up
(statistics/rounded.py). LoRA factors are too small to gain, and the head gives the probabilities that tokens are drawn by. Norms, the
recurrence and quantisers always compute in float32.

"auto" times one product in both types, on one thread and in its processor time, which other programs change little. A CPU with AVX512-BF16
was 1.6 to 2.1 times as fast, busy or not; without these instructions it had a third of float32's speed or less. FASTER is between the two,
so a repeated job decides as before. Small jobs take minutes, and stay in float32: their files then depend less on the CPU.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from rwkvquant.architectures import QUANTIZED_ROLES, Architecture, Role
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models import RoundedMatrix, Weights, rounded
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Recipe

LARGE_MODEL = 1 << 28  # weights of projections and LoRA factors
FASTER = 1.2
TOKENS, WIDTH = 128, 1024  # of the product that is timed: a few milliseconds
TRIES = 4


def settled(recipe: Recipe, checkpoint: Checkpoint, device: torch.device, progress: Progress) -> Recipe:
    """The recipe with "float32" or "bfloat16" for "auto". The rest of the job reads only this one, and the file keeps it."""
    if recipe.forward_dtype != "auto":
        return recipe
    gain = speed_of_bfloat16() if recipe.calibrated and device.type == "cpu" and is_large(checkpoint) else 0.0
    if gain < FASTER:
        return dataclasses.replace(recipe, forward_dtype="float32")
    progress.note(
        f"the text runs through the blocks in bfloat16, which this CPU multiplies {gain:.1f} times as fast as float32 "
        "(--forward-dtype float32 does without)"
    )
    return dataclasses.replace(recipe, forward_dtype="bfloat16")


def is_large(checkpoint: Checkpoint) -> bool:
    return sum(math.prod(m.shape) for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES) >= LARGE_MODEL


def multiplied(recipe: Recipe, architecture: Architecture) -> Callable[[Weights], dict[str, Any]]:
    """A function of a block's weights: as its products take them."""
    keys = frozenset(part for spec in architecture.table if spec.role is Role.PROJECTION for part in spec.parts)
    return lambda weights: rounded(weights, keys) if recipe.forward_dtype == "bfloat16" else dict(weights)


@torch.no_grad()
def speed_of_bfloat16() -> float:
    """How many times as fast as float32 a product in bfloat16 is here, casts included; the best of TRIES each."""
    draws = torch.Generator().manual_seed(0)
    x, W = torch.randn(TOKENS, WIDTH, generator=draws), torch.randn(WIDTH, WIDTH, generator=draws)
    matrix = RoundedMatrix(W)
    exact, fast, threads = math.inf, math.inf, torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(TRIES):
            exact = min(exact, _seconds(lambda: functional.linear(x, W)))
            fast = min(fast, _seconds(lambda: matrix.product(x)))
    finally:
        torch.set_num_threads(threads)
    return exact / fast


def _seconds(product: Callable[[], Any]) -> float:
    start = time.thread_time()
    product()
    return max(1e-9, time.thread_time() - start)
