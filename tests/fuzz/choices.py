"""The decisions of a mutator, from a random generator, from hypothesis, or from the bytes that a coverage-guided fuzzer makes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any


class Choices:
    """`below(n)` gives 0 to n - 1 and decides everything. If it always gives 0, there are few changes and the mutator soon ends."""

    def __init__(self, below: Callable[[int], int]) -> None:
        self.below = below

    def one_of(self, options: Sequence[Any]) -> Any:
        return options[self.below(len(options))]

    def bytes(self, count: int) -> bytes:
        return bytes(self.below(256) for _ in range(count))


def seeded(seed: int) -> Choices:
    return Choices(random.Random(seed).randrange)


def from_bytes(data: bytes) -> Choices:
    """One byte a decision, or as many as its range needs; 0 when all are used up."""
    at = 0

    def below(n: int) -> int:
        nonlocal at
        count = ((n - 1).bit_length() + 7) // 8
        value, at = int.from_bytes(data[at : at + count], "little"), at + count
        return value % n

    return Choices(below)
