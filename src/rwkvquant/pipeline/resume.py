"""Pass 2 may be killed at any moment: the journal says which blocks are finished, and gets a note after each block.

A note has the tensors in the spool, the hidden states for the next block, and the number of finished blocks. The code in quantize.py
runs inside `resumable`; it is the same for a new job and for one that continues.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.pipeline.allocation import give_back
from rwkvquant.pipeline.blocks import NoRun
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tensors import TensorWriter
from rwkvquant.pipeline.work_dir import Journal, WorkDirectory


class Job:
    """One pass 2. `writer` and `scratch` are ready at once; `restore` brings back what an earlier run left."""

    def __init__(self, journal: Journal, writer: ContainerWriter, scratch: Path, work: WorkDirectory, layers: int) -> None:
        self.writer, self.scratch = writer, scratch
        self._journal, self._work, self._layers = journal, work, layers
        self._finished: int | None = None  # blocks; 0 after the embedding, None before it

    def restore(self, tensors: TensorWriter, run: NoRun, progress: Progress) -> None:
        """Bring `tensors` and `run` to where an earlier job stopped, if there was one."""
        self._tensors, self._run = tensors, run
        if self._journal.state is None:
            return
        if not self._restored(self._journal.state):
            self._journal.start_again("does not match the data next to it")
            return
        self._finished = int(self._journal.state["blocks"])
        if self._finished:
            done = f"block {min(self._finished, self._layers)} of {self._layers}"
            progress.note(f"continuing after {done}, from {self._work.path}")

    @property
    def begins(self) -> bool:
        """Whether the rows have not been embedded yet."""
        return self._finished is None

    @property
    def head_is_left(self) -> bool:
        return self._finished == self._layers

    def blocks(self) -> Iterator[int]:
        """The blocks that no run has finished; each is noted when the next is asked for. Raises StoppedError between two."""
        first, progress = self._finished or 0, self._work.progress
        progress.block(min(first, self._layers), self._layers)
        for layer in range(first, self._layers):
            yield layer
            give_back()
            progress.block(layer + 1, self._layers)
            self._note(layer + 1, f"block {layer + 1} of {self._layers}")

    def embedded(self) -> None:
        """The rows are ready for block 0. Raises StoppedError if the caller asked to stop."""
        self._note(0, "the embedding")

    def head_done(self) -> None:
        self._note(self._layers + 1, "the head")

    def _note(self, blocks: int, after: str) -> None:
        self._finished = blocks
        if self._journal.lasting:
            state: dict[str, Any] = {"blocks": blocks, "fallen_back": self._tensors.fallen_back, "spool": self.writer.state()}
            self._journal.note(state | {"text": self._run.state()}, after)

    def _restored(self, state: dict[str, Any]) -> bool:
        try:
            if not self._run.restore(state["text"]):
                return False
            fallen_back = [str(name) for name in state["fallen_back"]]
            self.writer.restore(state["spool"])
        except (FormatError, KeyError, TypeError, ValueError):
            return False
        self._tensors.fallen_back = fallen_back
        return True


@contextmanager
def resumable(work: WorkDirectory, output: Path, made_from: dict[str, Any], layers: int, only_pass_1_may_be_there: bool) -> Iterator[Job]:
    """A pass 2 that writes `output`; `made_from` as in fingerprint.py. At the end it is removed from the work directory."""
    journal = work.journal("journal.json", made_from, may_be_missing=only_pass_1_may_be_there)
    scratch = work.folder("pass2", keep=journal.state is not None)
    with ContainerWriter(output, scratch / "spool" if work.lasting else None) as writer:
        yield Job(journal, writer, scratch, work, layers)
    journal.remove()
    work.clear("pass2")
