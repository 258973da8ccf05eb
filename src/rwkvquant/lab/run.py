"""Run a specification: every cell once, whatever happens to one of them; one after the other, or on the workers of a cluster.

A cell goes through three states, each written to its file: "quantized" (its file is made, not measured), "done", or "failed" with an
error. A run that was killed begins again at the cells it was in: the quantiser continues from its last finished block, and a file that
is already made is only measured. Done cells are never made again; to have one again, delete its file. Failed cells are tried again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rwkvquant.errors import StoppedError
from rwkvquant.lab.job import CellJob, question_of
from rwkvquant.lab.measure import Bench
from rwkvquant.lab.spec import Spec
from rwkvquant.lab.store import Store, key_of, slug
from rwkvquant.pipeline.executor import asking
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.work_dir import work_directory

if TYPE_CHECKING:
    from rwkvquant.pipeline.cluster import Cluster

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """Cells of the specification: in all, of these done before, done now, and failed, with a sentence for each failed one."""

    cells: int
    kept: int
    done: int
    failed: tuple[str, ...]


def run_spec(
    spec: Spec,
    work_dir: str | Path,
    *,
    say: Say = lambda line: None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
    cluster: Cluster | None = None,
) -> RunResult:
    """`say` gets a line for each cell; `stop` and `progress` as in pipeline.quantize and evaluation.

    With a `cluster`, its workers make and measure cells; `progress` then counts cells.

    Raises ConfigError, CheckpointError or CalibrationError for a text or a model that cannot be read, before the first cell, ConfigError
    for a directory in which another process works, and StoppedError if `stop` says so: between two cells, or between two blocks of one.
    """
    store = Store(Path(work_dir))
    with work_directory(work_dir, None, "auto", stop, Progress()):
        run = _Run(spec, store, say, stop, progress, cluster)
        store.write_spec(spec.name, run.rows())
        return run.all()


class _Run:
    def __init__(
        self,
        spec: Spec,
        store: Store,
        say: Say,
        stop: Callable[[], bool],
        progress: Callable[[int, int], None] | None,
        cluster: Cluster | None,
    ) -> None:
        self._spec, self._store, self._say, self._stop = spec, store, say, stop
        self._progress, self._cluster = progress, cluster
        self._questions = {cell: question_of(spec, cell) for cell in spec.cells}

    def rows(self) -> dict[str, Any]:
        """What `lab tables` needs of the specification."""
        names = [
            {
                "key": key_of(question),
                "model": cell.model.name,
                "row": cell.row,
                "series": cell.series,
                "label": cell.label,
                "bits": cell.bits,
                "seed": cell.seed,
            }
            for cell, question in self._questions.items()
        ]
        spec = self._spec
        study = {"study": spec.study} if spec.study else {}
        return {"title": spec.title, "reference": spec.reference, "plot": spec.plot, **study, "rows": names}

    def all(self) -> RunResult:
        todo: dict[int, CellJob] = {}
        for number, job in enumerate(self._jobs(), 1):
            if not _is_done(job.before) and job.key not in {other.key for other in todo.values()}:
                todo[number] = job
        count, failed = len(self._questions), []
        for number, content in self._elsewhere(todo, self._cluster) if self._cluster is not None else self._here(todo):
            job, where = todo[number], self._where(number, todo[number])
            if not _is_done(self._store.read(job.key)):  # one that failed, or a worker's that cannot write here
                self._store.write(job.name, content)
            if content["state"] == "failed":
                failed.append(f"{job.name}: {content['error']}")
                self._say(f"{where}: failed: {content['error']}")
            else:
                self._say(f"{where}: {_said(content['results'])}")
        return RunResult(count, count - len(todo), len(todo) - len(failed), tuple(failed))

    def _jobs(self) -> Iterator[CellJob]:
        for cell, question in self._questions.items():
            work = f"{slug(cell.model.name)}-s{cell.seed}"
            if self._cluster is not None:  # jobs of other requests run at the same time
                work += f"-{slug(cell.row)}"
            yield CellJob(self._spec, cell, question, self._store, work, os.getcwd(), self._store.read(key_of(question)))

    def _here(self, todo: dict[int, CellJob]) -> Iterator[tuple[int, dict[str, Any]]]:
        bench = Bench(self._spec, self._progress)
        with asking(self._stop):
            for number, job in todo.items():
                self._stop_before(job.name)
                self._say(self._where(number, job))
                yield number, job.content(bench)

    def _elsewhere(self, todo: dict[int, CellJob], cluster: Cluster) -> Iterator[tuple[int, dict[str, Any]]]:
        numbers, jobs = list(todo), list(todo.values())

        def heard(begun: list[int]) -> None:
            for place in begun:
                self._say(f"{self._where(numbers[place], jobs[place])}: begun")
            self._stop_before("the cells that are left")

        results = cluster.completed(jobs, held=1, apart=lambda job: job.work, heard=heard)
        for done, (place, content) in enumerate(results, 1):
            if self._progress is not None:
                self._progress(done, len(jobs))
            yield numbers[place], content

    def _where(self, number: int, job: CellJob) -> str:
        return f"[{number}/{len(self._questions)}] {job.name}"

    def _stop_before(self, what: str) -> None:
        if self._stop():
            raise StoppedError(f"stopped before {what}; the same command continues from there (work directory {self._store.path})")


def _said(results: Mapping[str, Any]) -> str:
    return f"{results['bits_per_weight']:.3f} bits, KL {results['kl_mean']:.6f}" if "kl_mean" in results else "done"


def _is_done(content: dict[str, Any] | None) -> bool:
    return content is not None and content["state"] == "done"
