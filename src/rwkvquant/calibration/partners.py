"""The activations that element-wise vectors are multiplied with ("partners"): taken from a block's taps, one row of text at a time."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Generic, Protocol, TypeVar

from torch import Tensor

from rwkvquant.architectures import TensorSpec


class Sums(Protocol):
    """An object that adds up samples (tokens, width), such as Importance in statistics/importance.py."""

    def add(self, X: Tensor) -> None: ...


Kept = TypeVar("Kept", bound=Sums)


class PartnerTap(Generic[Kept]):
    """A tap that adds every partner activation of the table to its own `Sums`, made by `make(width)`."""

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
