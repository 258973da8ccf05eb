"""What a long job reports. The pipeline calls these methods, the command line draws them, and callers from Python may ignore them."""

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
    """Ignores everything. Override the methods that you want to hear of."""

    def begin(self, tensors: int) -> None:
        """Once, with the number of tensors that will be reported."""

    def phase(self, what: str, steps: int = 0) -> None:
        """A new phase of the job begins: reading, block 3 of 24, writing.

        `steps`: the number of calls of `step` in this phase; 0 if it is not known, and then no time left is shown.
        """

    def step(self) -> None:
        """One step of the phase is done."""

    def working(self, what: str) -> None:
        """What is in work at this moment, in a phase whose parts are done elsewhere and not in their order; "" at the end."""

    def block(self, done: int, blocks: int) -> None:
        """`done` of all `blocks` are finished. Called before the first block that this run quantises, and after each of them.

        Blocks take about the same time. Tensors do not: most of the time is spent on the text between them.
        """

    def tensor(self, report: TensorReport) -> None:
        """One tensor is done."""

    def note(self, sentence: str) -> None:
        """Something that the user should know, such as a budget that was raised to the smallest reachable one."""

    def end(self) -> None:
        """Once, after the last tensor, also when the job failed."""
