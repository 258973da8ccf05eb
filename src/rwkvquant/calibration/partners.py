"""What element-wise vectors are multiplied with: heard from the taps of a block, and handed on one row of text at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from rwkvquant.architectures import TensorSpec


class Sums(Protocol):
    """Whatever adds up samples (tokens, width); statistics/importance.py has it."""

    def add(self, X: Tensor) -> None: ...


Kept = TypeVar("Kept", bound=Sums)


class PartnerTap(Generic[Kept]):
    """A tap that gives every partner activation of the table to sums of its own, which `make(width)` makes."""

    def __init__(self, table: Collection[TensorSpec], make: Callable[[int], Kept]) -> None:
        self._names = {spec.partner for spec in table if spec.partner is not None}
        self._make = make
        self.sums: dict[str, Kept] = {}

    def __call__(self, name: str, x: Tensor) -> None:
        """x (batch, tokens, ...): each row of text is one sample."""
        if name not in self._names:
            return
        samples = x.flatten(2)
        if name not in self.sums:
            self.sums[name] = self._make(samples.shape[-1])
        for sample in samples:
            self.sums[name].add(sample)
