"""How long a cell's quantising took: pass 1 (sensitivities and candidates) apart from all the rest, by the clock and by the processor."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

from rwkvquant.pipeline.progress import Progress


class Clock(Progress):
    """`seconds` by phase. `skipped_pass_1`: an earlier job of the same work directory had its results."""

    def __init__(self, note: Callable[[str], None] = lambda sentence: None) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.skipped_pass_1 = False
        self._note, self._name, self._since = note, "rest", time.perf_counter()
        self._processor = time.process_time()

    @property
    def processor_seconds(self) -> float:
        """Of all threads of this process since the clock was made."""
        return time.process_time() - self._processor

    def phase(self, what: str, steps: int = 0) -> None:
        self._switch(what.split(":")[0] if what.startswith("pass 1") else "rest")

    def note(self, sentence: str) -> None:
        self.skipped_pass_1 |= sentence.startswith("pass 1 skipped")
        self._note(sentence)

    def end(self) -> None:
        self._switch("rest")

    def _switch(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[self._name] += now - self._since
        self._name, self._since = name, now
