"""How many rows of text go through a block at once: the number that was asked for, or fewer, for machines with little memory.

A block needs a few dozen activations of the model's width at a time. The backward pass keeps all of them at once.
"""

from __future__ import annotations

FORWARD = 1 << 22  # numbers in one activation of a batch, 16 MB; the system allocates arrays above 32 MB again each time
BACKWARD = 1 << 21
LOGITS = 1 << 26


def fitting_batch(batch: int, row: int, most: int) -> int:
    """`batch`, or fewer, so that rows of `row` numbers do not exceed `most` together; at least one."""
    return max(1, min(batch, most // row))
