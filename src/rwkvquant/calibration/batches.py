"""How many rows of text go through a block at once: what was asked for, or as many as the memory of a small machine holds.

A block keeps a few dozen activations of the width at a time, and when gradients are wanted all of them at once.
"""

from __future__ import annotations

FORWARD = 1 << 22  # numbers in one activation of a batch, 16 MB: arrays above 32 MB are fresh from the system each time
BACKWARD = 1 << 21
LOGITS = 1 << 26


def fitting_batch(batch: int, row: int, most: int) -> int:
    """`batch`, or as few rows of `row` numbers as do not exceed `most`; at least one."""
    return max(1, min(batch, most // row))
