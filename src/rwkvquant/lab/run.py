"""Run a specification: every cell once, one after the other, whatever happens to one of them.

A cell goes through three states, each written to its file: "quantized" (its file is made, not measured), "done", or "failed" with an
error. A run that was killed begins again at the cell it was in: the quantiser continues from its last finished block, and a file that
is already made is only measured. Done cells are never made again; to have one again, delete its file. Failed cells are tried again.
"""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.errors import RwkvQuantError, StoppedError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.lab.clock import Clock
from rwkvquant.lab.conditions import conditions
from rwkvquant.lab.kinds import Workplace, digest
from rwkvquant.lab.measure import Bench
from rwkvquant.lab.spec import Cell, Spec
from rwkvquant.lab.store import Store, key_of, slug
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.work_dir import work_directory

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
) -> RunResult:
    """`say` gets a line for each cell; `stop` and `progress` as in pipeline.quantize and evaluation.

    Raises ConfigError, CheckpointError or CalibrationError for a text or a model that cannot be read, before the first cell, ConfigError
    for a directory in which another process works, and StoppedError between two cells if `stop` says so.
    """
    store = Store(Path(work_dir))
    with work_directory(work_dir, None, "auto", stop, Progress()):
        run = _Run(spec, store, Bench(spec, progress), say, stop)
        store.write_spec(spec.name, run.rows())
        return run.all()


class _Run:
    def __init__(self, spec: Spec, store: Store, bench: Bench, say: Say, stop: Callable[[], bool]) -> None:
        self._spec, self._store, self._bench, self._say, self._stop = spec, store, bench, say, stop
        text = digest(Path(spec.text))
        shared = {"text": text, "context": spec.context, "max_tokens": spec.max_tokens}
        of_model = {}
        for model in spec.models:
            source = open_text_checkpoint(model.checkpoint).made_from()
            of_model[model.name] = {**source, "tokenizer": _tokenizer_sha256(bench.tokenizer(model)), **shared}
        questions = [{**of_model[cell.model.name], **cell.kind.question()} for cell in spec.cells]
        self._questions = dict(zip(spec.cells, questions, strict=True))

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
        return {"title": spec.title, "reference": spec.reference, "plot": spec.plot, "rows": names}

    def all(self) -> RunResult:
        kept, done, failed = 0, 0, []
        for number, (cell, question) in enumerate(self._questions.items(), 1):
            label, key = f"{cell.model.name} {cell.label} s{cell.seed}", key_of(question)
            before = self._store.read(key)
            if before is not None and before["state"] == "done":
                kept += 1
                continue
            if self._stop():
                raise StoppedError(f"stopped before {label}; the same command continues from there (work directory {self._store.path})")
            where = f"[{number}/{len(self._questions)}] {label}"
            self._say(where)
            try:
                results = self._one(cell, label, key, question, before)
            except StoppedError:
                raise
            except Exception as error:  # of any kind: the other cells are still worth having
                sentence = " ".join(f"{'' if isinstance(error, RwkvQuantError) else type(error).__name__ + ': '}{error}".split())
                failed.append(f"{label}: {sentence}")
                lines = [] if isinstance(error, RwkvQuantError) else traceback.format_exc().splitlines()
                self._write(label, key, question, {"state": "failed", "error": sentence, "traceback": lines})
                self._say(f"{where}: failed: {sentence}")
            else:
                done += 1
                self._say(f"{where}: {results['bits_per_weight']:.3f} bits, KL {results['kl_mean']:.6f}")
        return RunResult(len(self._questions), kept, done, tuple(failed))

    def _one(self, cell: Cell, label: str, key: str, question: dict[str, Any], before: dict[str, Any] | None) -> dict[str, Any]:
        made = self._made(before)
        if made is None:
            clock = Clock()
            work = self._store.folder(f"work/{slug(cell.model.name)}-s{cell.seed}")
            place = Workplace(self._store.folder("files") / key, work, clock, self._stop)
            file, known = cell.kind.make(cell.model, place)
            known |= {"seconds": dict(clock.seconds), "processor_seconds": clock.processor_seconds}
            known |= {"skipped_pass_1": clock.skipped_pass_1}
            made = {"file": str(file.resolve()), "results": known}
            self._write(label, key, question, {"state": "quantized", **made})
        file = Path(made["file"])
        overlap = self._bench.shared_16_grams(cell.model, cell.kind.calibration)
        results = {**made["results"], **self._bench.measure(cell.model, file), "shared_16_grams": overlap}
        self._write(label, key, question, {"state": "done", "results": results})
        if cell.kind.own_file and not self._spec.keep_files:
            file.unlink()
        return results

    def _made(self, before: dict[str, Any] | None) -> dict[str, Any] | None:
        """What an earlier run made and did not measure. The file was renamed to its name when it was complete."""
        if before is None or before["state"] != "quantized" or not Path(before["file"]).is_file():
            return None
        return before

    def _write(self, label: str, key: str, question: dict[str, Any], found: dict[str, Any]) -> None:
        cell = {"key": key, "label": label, "question": question, "conditions": conditions(), **found}
        self._store.write(label, cell)


def _tokenizer_sha256(data: TokenizerData) -> str:
    words = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in data.arrays.items()}
    return hashlib.sha256(json.dumps([data.kind, data.meta, words], sort_keys=True).encode()).hexdigest()
