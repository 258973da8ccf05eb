"""The answers of one request, as they grow, for the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from rwkvquant.serve.choosing import Constraint
from rwkvquant.serve.jobs import Deliver, Job, Piece
from rwkvquant.serve.scheduler import Scheduler


class Answers:
    """Made in the event loop. `alike` jobs in a row have the same prompt. Raises ApiError if the scheduler takes no more."""

    def __init__(
        self, scheduler: Scheduler, jobs: Sequence[Job], constraints: Sequence[Constraint | None] | None = None, alike: int = 1
    ) -> None:
        self._scheduler, self._open = scheduler, len(jobs)
        self._queue: asyncio.Queue[tuple[int, Piece]] = asyncio.Queue()
        each = zip(jobs, map(self._deliver, range(len(jobs))), constraints or [None] * len(jobs), strict=True)
        self._ticket = scheduler.submit(list(each), alike)

    async def pieces(self) -> AsyncGenerator[tuple[int, Piece], None]:
        """(index of the job, piece) until all answers are complete. Raises the error of the first that fails.

        Closing it, or an error, cancels what is not complete.
        """
        try:
            while self._open:
                index, piece = await self._queue.get()
                if piece.error is not None:
                    raise piece.error
                self._open -= piece.finish is not None
                yield index, piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._scheduler.cancel(self._ticket)

    def _deliver(self, index: int) -> Deliver:
        return lambda piece: self._queue.put_nowait((index, piece))
