"""What a long job tells whoever watches it. The pipeline calls these; the command line draws them; a library user may ignore them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorReport:
    """One finished tensor. `relative_error` is tr(E H E^T) / tr(W H W^T), or |E|^2 / |W|^2 where there is no H; None if dense."""

    name: str
    method: str
    layout: str
    bits_per_weight: float
    relative_error: float | None
    source_bytes: int
    stored_bytes: int


class Progress:
    """Does nothing. Override what you want to see."""

    def begin(self, tensors: int) -> None:
        """Once, with the number of tensors that will be reported."""

    def phase(self, what: str, steps: int = 0) -> None:
        """The job turns to something else: reading, calibrating block 3 of 24, writing.

        `steps`: how many calls of `step` this phase will make; 0 where nobody knows, so that no time left can be told.
        """

    def step(self) -> None:
        """One step of the phase is done."""

    def tensor(self, report: TensorReport) -> None:
        """One tensor is done."""

    def note(self, sentence: str) -> None:
        """Something the user should know, such as a budget that was raised to the smallest reachable."""

    def end(self) -> None:
        """Once, after the last tensor, also when the job failed."""
