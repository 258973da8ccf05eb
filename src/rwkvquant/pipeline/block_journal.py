"""What pass 2 has finished: the spool's tensors, the hidden states in front of the next block, and how many blocks that is."""

from __future__ import annotations

from typing import Any

from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter
from rwkvquant.pipeline.blocks import CalibrationText
from rwkvquant.pipeline.tensors import TensorWriter
from rwkvquant.pipeline.work_dir import Journal


class BlockJournal:
    """`blocks` that are finished, 0 also when the embedding is; None before that."""

    def __init__(self, journal: Journal, writer: ContainerWriter, tensors: TensorWriter, text: CalibrationText | None) -> None:
        self._journal, self._writer, self._tensors, self._text = journal, writer, tensors, text
        self.blocks: int | None = None
        if journal.state is None:
            return
        if self._restore(journal.state):
            self.blocks = int(journal.state["blocks"])
        else:
            journal.start_anew("does not fit the data beside it")

    def note(self, blocks: int, behind: str) -> None:
        """Raises StoppedError if the job was asked to stop."""
        self.blocks = blocks
        if self._journal.lasting:
            state: dict[str, Any] = {"blocks": blocks, "fallen_back": self._tensors.fallen_back, "spool": self._writer.state()}
            self._journal.note(state | {"text": self._text.state() if self._text else None}, behind)

    def _restore(self, state: dict[str, Any]) -> bool:
        try:
            if self._text is not None and not self._text.restore(state["text"]):
                return False
            fallen_back = [str(name) for name in state["fallen_back"]]
            self._writer.restore(state["spool"])
        except (FormatError, KeyError, TypeError, ValueError):
            return False
        self._tensors.fallen_back = fallen_back
        return True
