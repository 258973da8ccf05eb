"""One cell as a task: plain data that this process, or a worker of a cluster, makes and measures.

A worker opens the same files as the command would: models, texts and the work directory are in folders that all machines share. It works in
the folder of the command, so relative paths mean the same. Before it starts, it computes the question of the cell again, as its files may
be others.
"""

from __future__ import annotations

import contextlib
import functools
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.errors import ConfigError, RwkvQuantError, StoppedError
from rwkvquant.lab.clock import Clock
from rwkvquant.lab.conditions import conditions
from rwkvquant.lab.hashes import digest, tokenizer_sha256
from rwkvquant.lab.kinds import Kind, Workplace
from rwkvquant.lab.measure import Bench
from rwkvquant.lab.spec import Cell, LabModel, Spec
from rwkvquant.lab.store import Store, key_of
from rwkvquant.lab.studies import Study
from rwkvquant.pipeline.executor import unwanted

GUESSED_COST = 1e6


def question_of(spec: Spec, cell: Cell) -> dict[str, Any]:
    """All that decides the result of a cell. Raises CheckpointError or ConfigError for a file that cannot be read.

    "forwards" and "positions" are there only if the specification has them, so cells of older versions keep their keys.
    """
    if isinstance(cell.kind, Study):
        return cell.kind.question(cell.model)
    files = tuple(Path(path).stat().st_mtime_ns if Path(path).exists() else None for path in (cell.model.checkpoint, spec.text))
    more: dict[str, Any] = {"forwards": list(spec.forwards)} if spec.forwards else {}
    more |= {"positions": True} if spec.positions else {}
    return {**_of_model(spec, cell.model, files), **cell.kind.question(), **more}


@functools.lru_cache(maxsize=16)
def _of_model(spec: Spec, model: LabModel, files: tuple[int | None, ...]) -> dict[str, Any]:
    """`files`: when they were changed, so that others are not mistaken for them."""
    return {
        **open_text_checkpoint(model.checkpoint).made_from(),
        "tokenizer": tokenizer_sha256(Bench(spec).tokenizer(model)),
        "text": digest(Path(spec.text)),
        "context": spec.context,
        "max_tokens": spec.max_tokens,
    }


@functools.lru_cache(maxsize=1)
def _bench(spec: Spec) -> Bench:
    """On a worker it is kept from cell to cell."""
    return Bench(spec)


@dataclass(frozen=True)
class CellJob:
    """`work`: the name of the quantiser's work directory in the store; two jobs with the same may not run together.

    `here`: the folder of the command. `before`: what the store has of this cell, or None.
    """

    spec: Spec
    cell: Cell
    question: dict[str, Any]
    store: Store
    work: str
    here: str
    before: dict[str, Any] | None

    @property
    def name(self) -> str:
        return f"{self.cell.model.name} {self.cell.label} s{self.cell.seed}"

    @property
    def key(self) -> str:
        return key_of(self.question)

    @property
    def cost(self) -> float:
        """The bytes of the model."""
        path = Path(self.cell.model.checkpoint)
        return float(path.stat().st_size) if path.is_file() else GUESSED_COST

    def perform(self) -> dict[str, Any]:
        """On a worker: the content of the cell's file."""
        try:
            with contextlib.chdir(self.here):
                if question_of(self.spec, self.cell) != self.question:
                    raise ConfigError(f"the model or a text of {self.name} has another content on a worker than here; share their folder")
                return self.content(_bench(self.spec))
        except OSError as error:
            if error.filename != self.here:
                raise
            raise ConfigError(
                f"a worker has no folder {self.here}; all machines of a laboratory must share the folder of its files"
            ) from None

    def content(self, bench: Bench) -> dict[str, Any]:
        """The content of the cell's file when it is done, or has failed. Raises StoppedError if it was asked to stop."""
        try:
            return self._content({"state": "done", "results": self._results(bench)})
        except StoppedError:
            raise
        except Exception as error:  # of any kind: the other cells are still worth having
            sentence = " ".join(f"{'' if isinstance(error, RwkvQuantError) else type(error).__name__ + ': '}{error}".split())
            lines = [] if isinstance(error, RwkvQuantError) else traceback.format_exc().splitlines()
            return self._content({"state": "failed", "error": sentence, "traceback": lines})

    def _results(self, bench: Bench) -> dict[str, Any]:
        kind, clock = self.cell.kind, Clock()
        place = Workplace(self.store.folder("files") / self.key, self.store.folder(f"work/{self.work}"), clock, unwanted)
        return kind.results(self.cell.model, place) if isinstance(kind, Study) else self._measured(kind, bench, place, clock)

    def _measured(self, kind: Kind, bench: Bench, place: Workplace, clock: Clock) -> dict[str, Any]:
        """Of a file, which is made if an earlier run has not made it."""
        made = self._made_before()
        if made is None:
            file, known = kind.make(self.cell.model, place)
            known |= {"seconds": dict(clock.seconds), "processor_seconds": clock.processor_seconds}
            known |= {"skipped_pass_1": clock.skipped_pass_1}
            made = {"file": str(file.resolve()), "results": known}
            self.store.write(self.name, self._content({"state": "quantized", **made}))
        file = Path(made["file"])
        overlap = bench.shared_16_grams(self.cell.model, kind.calibration)
        results = {**made["results"], **bench.measure(self.cell.model, file), "shared_16_grams": overlap}
        self.store.write(self.name, self._content({"state": "done", "results": results}))
        if kind.own_file and not self.spec.keep_files:
            file.unlink()
        return results

    def _made_before(self) -> dict[str, Any] | None:
        """What an earlier run made and did not measure. The file was renamed to its name when it was complete."""
        if self.before is None or self.before["state"] != "quantized" or not Path(self.before["file"]).is_file():
            return None
        return self.before

    def _content(self, found: dict[str, Any]) -> dict[str, Any]:
        return {"key": self.key, "label": self.name, "question": self.question, "conditions": conditions(), **found}
