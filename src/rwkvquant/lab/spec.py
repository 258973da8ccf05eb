"""A specification: which models, requests, bits and seeds, and the text that all are measured on -> a list of cells.

    title: GPTQ and ours
    models: {rwkv7-8m: {checkpoint: rwkv7-8m.pth, tokenizer: tokenizer.json}}
    text: eval.txt
    bits: [3.25, 3.5]                              # every request without its own bits is run at each
    requests: {gptq: {method: gptq}, ours: {}}     # options of QuantizeRequest, or a `gguf` type, a `file`, a `study`

docs/laboratory.md lists all keys. Paths are relative to the file of the specification. Every mistake is one ConfigError before anything
runs: requests are built and checked by their method's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.config import CalibrationConfig, QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.forwards import TORCH, forward_named
from rwkvquant.lab.entries import Entries, hint, is_count, is_number, is_seed, shown
from rwkvquant.lab.kinds import Kind, kind_of
from rwkvquant.lab.studies import Study, study_named
from rwkvquant.lab.yaml_file import read_yaml

LARGEST = 10_000  # cells
KEYS = (
    "title",
    "models",
    "text",
    "context",
    "max_tokens",
    "forwards",
    "positions",
    "calibration",
    "common",
    "bits",
    "seeds",
    "requests",
    "reference",
    "plot",
    "keep_files",
)
AXES = ("bits_per_weight", "file_bytes")
OF_A_STUDY = ("title", "models", "calibration", "requests", "reference")  # keys that it may have
FIXED = ("gguf", "file", "study")  # requests that have no bits or seeds


@dataclass(frozen=True)
class LabModel:
    """`tokenizer` as in QuantizeRequest. `checkpoint` is the name of a released shape in studies of shapes."""

    name: str
    checkpoint: str
    tokenizer: str | None = None


@dataclass(frozen=True)
class Cell:
    """One row of one model's table. `bits`: the entry of the list `bits` it was made for, None for a request with its own.

    Cells of one `series` are one line of the plot.
    """

    model: LabModel
    row: str
    series: str
    bits: float | None
    seed: int
    kind: Kind | Study

    @property
    def label(self) -> str:
        """The row with its bits: "gptq 3.25"."""
        return self.row if self.bits is None else f"{self.row} {self.bits:g}"


@dataclass(frozen=True)
class Spec:
    """`reference`: the row with which all others are compared, or None. `plot`: the horizontal axis of the plot, one of AXES.

    `study`: the name of the study of which all requests are, or None. Then `reference` is a model, and `text` is empty.

    `forwards`: what is measured besides the torch forward (evaluation/forwards.py). `positions`: whether cells keep the KL by position in
    a window. `keep_files`: packed files stay in the work directory.
    """

    name: str
    title: str
    models: tuple[LabModel, ...]
    text: str
    context: int
    max_tokens: int | None
    forwards: tuple[str, ...]
    positions: bool
    reference: str | None
    plot: str
    keep_files: bool
    study: str | None
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Replacements:
    """What the command line gives in place of what the file says. `files`: the folder of the rows with a `file`.

    `models`: checkpoints for those that the file names without one, or else in place of all.
    """

    models: tuple[LabModel, ...] = ()
    text: str | None = None
    calibration: str | None = None
    max_tokens: int | None = None
    files: str | None = None


def read_spec(path: str | Path, instead: Replacements | None = None) -> Spec:
    """Raises ConfigError for a file that is missing, not YAML, or not a specification."""
    path, instead = Path(path), instead or Replacements()
    return _Reader(path, read_yaml(path), instead).spec()


class _Reader(Entries):
    def __init__(self, path: Path, content: Any, instead: Replacements) -> None:
        super().__init__(path, content, "a specification", KEYS)
        self.instead = instead

    def spec(self) -> Spec:
        requests = self.names("requests")
        study = self._study(requests)
        models = tuple(self._models(of_shapes=study is not None and study.of_shapes))
        names, what = (requests, "requests") if study is None else (self.names("models"), "models")
        reference = self.one("reference", None, str, f"the name of one of the {what}")
        if reference is not None and reference not in names:
            self.fail(f"reference must be one of the {what}; got {shown(reference)}.{hint(reference, names)}")
        asked = self._asked(requests)
        if (count := len(models) * len(asked)) > LARGEST:
            self.fail(f"a specification has at most {LARGEST:,} cells; this one has {count:,}. Split it into several files")
        cells = tuple(
            Cell(model, row, series, bits, seed, self._kind(model, row, options, bits, seed))
            for model in models
            for row, series, options, bits, seed in asked
        )
        given = self.instead.max_tokens
        return Spec(
            name=self.path.stem,
            title=self.one("title", self.path.stem, str, "a string"),
            models=models,
            text="" if study else self.instead.text or self._text(),
            context=self.one("context", 512, is_count, "a whole number from 1 on"),
            max_tokens=self.one("max_tokens", None, is_count, "a whole number from 1 on") if given is None else given,
            forwards=self._forwards(),
            positions=self.one("positions", False, bool, "true or false"),
            reference=reference,
            plot=self.one("plot", AXES[0], lambda value: isinstance(value, str) and value in AXES, " or ".join(AXES)),
            keep_files=self.one("keep_files", False, bool, "true or false"),
            study=study.name if study else None,
            cells=cells,
        )

    def _study(self, requests: Mapping[str, Any]) -> type[Study] | None:
        """The study that all requests are of."""
        given = [value["study"] if isinstance(value, Mapping) and "study" in value else None for value in requests.values()]
        if all(name is None for name in given):
            return None
        if any(name != given[0] for name in given):
            self.fail("the requests of a specification are all of one study, or none is of a study")
        for key in self.content:
            if key not in OF_A_STUDY:
                self.fail(f"a study has no {key}; a specification of one has {', '.join(OF_A_STUDY)}")
        try:
            return study_named(given[0])
        except ConfigError as error:
            self.fail(str(error))

    def _models(self, of_shapes: bool) -> list[LabModel]:
        """With those of the command line."""
        given = {model.name: model for model in self.instead.models}
        entries = self.names("models")
        if any(name not in entries or entries[name] is not None for name in given):
            return list(self.instead.models)
        models = []
        for name, value in entries.items():
            if value is None:
                if name not in given:
                    self.fail(f"the model {name} has no checkpoint here; give it with --model {name}=CHECKPOINT")
                models.append(given[name])
                continue
            if of_shapes and isinstance(value, str):
                models.append(LabModel(name, value))
                continue
            entry = {"checkpoint": value} if isinstance(value, str) else self.mapping(value, f"the model {name}")
            for key in entry:
                if key not in ("checkpoint", "tokenizer"):
                    self.fail(f"the model {name} has a checkpoint and a tokenizer; got {shown(key)}")
            checkpoint, tokenizer = entry.get("checkpoint"), entry.get("tokenizer")
            if not isinstance(checkpoint, str) or not isinstance(tokenizer, str | None):
                self.fail(f"the model {name} needs a path as its checkpoint, and may have one as its tokenizer")
            named = tokenizer is None or tokenizer in ("world", "bytes")
            models.append(LabModel(name, self.beside(checkpoint), tokenizer if named else self.beside(str(tokenizer))))
        return models

    def _text(self) -> str:
        text = self.one("text", None, str, "the path of a text")
        if text is None:
            self.fail("a specification needs a text to measure on, which is not the calibration text; give text: FILE, or --text FILE")
        return self.beside(text)

    def _forwards(self) -> tuple[str, ...]:
        try:
            found = [forward_named(name).name for name in self.several("forwards", [], lambda name: isinstance(name, str), "names")]
        except ConfigError as error:
            self.fail(f"forwards: {error}")
        return tuple(name for name in found if name != TORCH)

    def _asked(self, requests: Mapping[str, Any]) -> list[tuple[str, str, dict[str, Any], float | None, int]]:
        """(row, series, options, bits, seed) of each cell of a model."""
        common = self.mapping(self.content.get("common", {}), "common")
        every = self.several("bits", [], is_number, "numbers")
        seeds = self.several("seeds", [0], is_seed, "whole numbers from 0 on")
        asked = []
        for row, value in requests.items():
            options = self.mapping({} if value is None else value, f"the request {row}")
            for key in ("seed", "tokenizer", "adapter"):
                if key in {**common, **options}:
                    where = {"seed": "give the list seeds", "tokenizer": "give it with the model"}.get(key, "the laboratory has none")
                    self.fail(f"the request {row} may not have {key}; {where}")
            series = options.pop("series", row)
            if not isinstance(series, str):
                self.fail(f"the request {row}: series must be a name; got {shown(series)}")
            own = any(key in options for key in ("bits", "code_bits", *FIXED))
            for bits in [None] if own or not every else every:
                for seed in seeds if not options.keys() & set(FIXED) else seeds[:1]:
                    asked.append((row, series, options, bits, seed))
        return asked

    def _kind(self, model: LabModel, row: str, options: Mapping[str, Any], bits: float | None, seed: int) -> Kind | Study:
        common = self.mapping(self.content.get("common", {}), "common")
        calibration = self._calibration(options.get("calibration"))
        if options.keys() & set(FIXED):
            fixed: dict[str, Any] = {**options, "calibration": calibration}
            if isinstance(file := fixed.get("file"), str):
                file = file.replace("{model}", model.name)
                fixed["file"] = str(Path(self.instead.files) / file) if self.instead.files else self.beside(file)
        else:
            fixed = {**common, **options, "calibration": calibration, "tokenizer": model.tokenizer, "seed": seed}
            fixed |= {} if bits is None else {"bits": bits}
        try:
            return kind_of(fixed)
        except ConfigError as error:
            self.fail(f"the request {row}: {error}")

    def _calibration(self, own: Any) -> CalibrationConfig:
        """That of the specification, with what the request has of its own. --calib is in place of the specification's path alone."""
        merged: dict[str, Any] = {}
        for value in (self.content.get("calibration"), own):
            part = {"path": value} if isinstance(value, str) else self.mapping(value or {}, "calibration")
            if isinstance(part.get("path"), str):
                part = {**part, "path": self.beside(part["path"])}
            merged |= part
        own_path = isinstance(own, str) or (isinstance(own, Mapping) and "path" in own)
        if self.instead.calibration is not None and not own_path:
            merged["path"] = self.instead.calibration
        try:
            return QuantizeRequest.from_dict({"calibration": merged}).calibration
        except ConfigError as error:
            self.fail(str(error))
