"""An executor whose tasks are performed by the workers of a dask scheduler, on this machine or on others (docs/cluster.md).

The tasks of a block are sorted by their estimated cost. The biggest goes to the worker with the least left to do, then the next one. A
worker has at most two: one in work, and one that travels meanwhile. When a worker is lost, others get its tasks. Tasks are pure functions
of what they hold, and workers compute as this process does (workers.py), so the bytes of a file are the same as without a cluster, with
any number of workers, in any order.

What is unfinished is kept here and nowhere else. So a job with a work directory can be continued with another cluster, or alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

from rwkvquant.errors import ClusterError
from rwkvquant.pipeline.executor import Arithmetic, Work, arithmetic
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tasks import list_of_names
from rwkvquant.pipeline.workers import LOOK, Attempt, Workers, cause

HELD = 2  # tasks that a worker has
LOST = 3  # workers that one task may lose

T = TypeVar("T")
W = TypeVar("W", bound=Work[Any])


@dataclass(eq=False)
class _Item:
    """A task and its number. Items with the same `apart` are never in work together. `lost`: how many workers were lost with it."""

    number: int
    work: Work[Any]
    apart: str | None
    lost: int = 0


class Cluster:
    """The workers of the scheduler at `address`, as an `Executor`. A context: at its end nothing of it is left at the scheduler.

    Raises ClusterError for a wrong address, if no scheduler answers there, if it has no worker for a minute, and if one of its workers
    would give other bytes than this process.
    """

    def __init__(self, address: str, progress: Progress | None = None) -> None:
        self._progress = progress or Progress()
        self._workers = Workers(address, self._progress)

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what is not finished, and leave."""
        self._workers.close()

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]:
        """In the order of the tasks, which are all made at once. Raises ClusterError if no worker is left for a minute."""
        early: dict[int, T] = {}
        following = 0
        for number, result in self.completed(tasks):
            early[number] = result
            while following in early:
                yield early.pop(following)
                following += 1

    def completed(
        self,
        tasks: Iterable[W],
        held: int = HELD,
        apart: Callable[[W], str | None] = lambda work: None,
        heard: Callable[[list[int]], None] = lambda begun: None,
    ) -> Iterator[tuple[int, Any]]:
        """(number, result) of each task when it is done. An error of a task is raised as it would be without a cluster.

        A worker has at most `held` tasks. Tasks with the same name by `apart` are never in work at the same time. While tasks are in work,
        `heard` gets the numbers of those that were begun since its last call, a few times a second; what it raises ends the whole.
        """
        how = arithmetic()
        waiting = [_Item(number, work, apart(work)) for number, work in enumerate(tasks)]
        total, done = len(waiting), 0
        sent: dict[Attempt, _Item] = {}
        self._workers.wait_again()
        try:
            while waiting or sent:
                waiting += [_once_more(sent.pop(attempt), "it was lost") for attempt in self._workers.look()]
                heard([item.number for item in self._give(waiting, sent, held, how)])
                if sent:
                    names = list_of_names([item.work.name for item in sent.values()])
                    self._progress.working(f"{done} of {total} done, in work {names}")
                ended = self._workers.ended(LOOK / 5)
                if ended is None:
                    continue
                item = sent.pop(ended)
                if ended.error is not None:
                    waiting.append(_once_more(item, cause(ended.error)))
                    continue
                done += 1
                number, result = item.number, ended.answer.result()
                del item, ended  # their Hessians
                yield number, result
        finally:
            self._workers.give_up(list(sent))
            self._progress.working("")

    def _give(self, waiting: list[_Item], sent: dict[Attempt, _Item], held: int, how: Arithmetic) -> list[_Item]:
        """Give out tasks as long as the worker with the least left to do may have more. -> those that were given out."""
        given: list[_Item] = []
        waiting.sort(key=lambda item: -item.work.cost)
        while waiting and self._workers.known:
            loads = {
                worker: [item.work.cost for attempt, item in sent.items() if attempt.worker is worker] for worker in self._workers.known
            }
            worker = min(loads, key=lambda each: (sum(loads[each]), len(loads[each])))
            in_work = {item.apart for item in sent.values()} - {None}
            item = next((item for item in waiting if item.apart not in in_work), None)
            if item is None or len(loads[worker]) >= held:
                break
            waiting.remove(item)
            sent[self._workers.send(worker, item.work, how)] = item
            given.append(item)
        return given


def _once_more(item: _Item, why: str) -> _Item:
    """Raises ClusterError for a task that has lost too many workers: perhaps it is the reason."""
    item.lost += 1
    if item.lost >= LOST:
        raise ClusterError(
            f"{LOST} workers were lost while they worked on {item.work.name} (the last: {why}). Have they too little memory? A worker that "
            "dask stops for its memory is started with --memory-limit 0"
        )
    return item
