"""A specification: which models, requests, bits and seeds, and the text that all are measured on -> a list of cells.

    title: GPTQ and ours
    models: {rwkv7-8m: {checkpoint: rwkv7-8m.pth, tokenizer: tokenizer.json}}
    text: eval.txt
    bits: [3.25, 3.5]                              # every request without its own bits is run at each
    requests: {gptq: {method: gptq}, ours: {}}     # options of QuantizeRequest, or a `gguf` type, or a `file`

docs/laboratory.md lists all keys. Paths are relative to the file of the specification. Every mistake is one ConfigError before anything
runs: requests are built and checked by their method's recipe.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from rwkvquant.config import CalibrationConfig, QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.forwards import TORCH, forward_named
from rwkvquant.lab.kinds import Kind, kind_of
from rwkvquant.lab.yaml_file import read_yaml

LARGEST = 10_000  # cells
LONGEST = 80  # characters of a name
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


@dataclass(frozen=True)
class LabModel:
    """`tokenizer` as in QuantizeRequest."""

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
    kind: Kind

    @property
    def label(self) -> str:
        """The row with its bits: "gptq 3.25"."""
        return self.row if self.bits is None else f"{self.row} {self.bits:g}"


@dataclass(frozen=True)
class Spec:
    """`reference`: the row with which all others are compared, or None. `plot`: the horizontal axis of the plot, one of AXES.

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
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Replacements:
    """What the command line gives in place of what the file says. `files`: the folder of the rows with a `file`."""

    models: tuple[LabModel, ...] = ()
    text: str | None = None
    calibration: str | None = None
    max_tokens: int | None = None
    files: str | None = None


def read_spec(path: str | Path, instead: Replacements | None = None) -> Spec:
    """Raises ConfigError for a file that is missing, not YAML, or not a specification."""
    path, instead = Path(path), instead or Replacements()
    return _Reader(path, read_yaml(path), instead).spec()


class _Reader:
    def __init__(self, path: Path, content: Any, instead: Replacements) -> None:
        self.path, self.instead = path, instead
        self.content = self._mapping(content, "a specification")
        for key in self.content:
            if key not in KEYS:
                self._fail(f"there is no key {shown(key)}.{_hint(str(key), KEYS)}")

    def spec(self) -> Spec:
        models = self.instead.models or tuple(self._models())
        requests = self._names("requests")
        reference = self._get("reference", None, str, "the name of a request")
        if reference is not None and reference not in requests:
            self._fail(f"reference must be one of the requests; got {shown(reference)}.{_hint(reference, requests)}")
        cells = tuple(cell for model in models for cell in self._cells(model, requests))
        if len(cells) > LARGEST:
            self._fail(f"a specification has at most {LARGEST:,} cells; this one has {len(cells):,}. Split it into several files")
        given = self.instead.max_tokens
        return Spec(
            name=self.path.stem,
            title=self._get("title", self.path.stem, str, "a string"),
            models=models,
            text=self.instead.text or self._text(),
            context=self._get("context", 512, _count, "a whole number from 1 on"),
            max_tokens=self._get("max_tokens", None, _count, "a whole number from 1 on") if given is None else given,
            forwards=self._forwards(),
            positions=self._get("positions", False, bool, "true or false"),
            reference=reference,
            plot=self._get("plot", AXES[0], lambda value: isinstance(value, str) and value in AXES, " or ".join(AXES)),
            keep_files=self._get("keep_files", False, bool, "true or false"),
            cells=cells,
        )

    def _models(self) -> list[LabModel]:
        models = []
        for name, value in self._names("models").items():
            entry = {"checkpoint": value} if isinstance(value, str) else self._mapping(value, f"the model {name}")
            for key in entry:
                if key not in ("checkpoint", "tokenizer"):
                    self._fail(f"the model {name} has a checkpoint and a tokenizer; got {shown(key)}")
            checkpoint, tokenizer = entry.get("checkpoint"), entry.get("tokenizer")
            if not isinstance(checkpoint, str) or not isinstance(tokenizer, str | None):
                self._fail(f"the model {name} needs a path as its checkpoint, and may have one as its tokenizer")
            named = tokenizer is None or tokenizer in ("world", "bytes")
            models.append(LabModel(name, self._beside(checkpoint), tokenizer if named else self._beside(str(tokenizer))))
        return models

    def _text(self) -> str:
        text = self._get("text", None, str, "the path of a text")
        if text is None:
            self._fail("a specification needs a text to measure on, which is not the calibration text; give text: FILE, or --text FILE")
        return self._beside(text)

    def _forwards(self) -> tuple[str, ...]:
        try:
            found = [forward_named(name).name for name in self._list("forwards", [], lambda name: isinstance(name, str), "names")]
        except ConfigError as error:
            self._fail(f"forwards: {error}")
        return tuple(name for name in found if name != TORCH)

    def _cells(self, model: LabModel, requests: Mapping[str, Any]) -> list[Cell]:
        common = self._mapping(self.content.get("common", {}), "common")
        every = self._list("bits", [], _number, "numbers")
        seeds = self._list("seeds", [0], _seed, "whole numbers from 0 on")
        cells = []
        for row, value in requests.items():
            options = self._mapping({} if value is None else value, f"the request {row}")
            for key in ("seed", "tokenizer", "adapter"):
                if key in {**common, **options}:
                    where = {"seed": "give the list seeds", "tokenizer": "give it with the model"}.get(key, "the laboratory has none")
                    self._fail(f"the request {row} may not have {key}; {where}")
            series = options.pop("series", row)
            if not isinstance(series, str):
                self._fail(f"the request {row}: series must be a name; got {shown(series)}")
            own = any(key in options for key in ("bits", "code_bits", "gguf", "file"))
            for bits in [None] if own or not every else every:
                for seed in seeds if not {"gguf", "file"} & options.keys() else seeds[:1]:
                    cells.append(Cell(model, row, series, bits, seed, self._kind(row, model, common, options, bits, seed)))
        return cells

    def _kind(
        self, row: str, model: LabModel, common: Mapping[str, Any], options: Mapping[str, Any], bits: float | None, seed: int
    ) -> Kind:
        calibration = self._calibration(options.get("calibration"))
        if {"gguf", "file"} & options.keys():
            fixed: dict[str, Any] = {**options, "calibration": calibration}
            if isinstance(file := fixed.get("file"), str):
                file = file.replace("{model}", model.name)
                fixed["file"] = str(Path(self.instead.files) / file) if self.instead.files else self._beside(file)
        else:
            fixed = {**common, **options, "calibration": calibration, "tokenizer": model.tokenizer, "seed": seed}
            fixed |= {} if bits is None else {"bits": bits}
        try:
            return kind_of(fixed)
        except ConfigError as error:
            self._fail(f"the request {row}: {error}")

    def _calibration(self, own: Any) -> CalibrationConfig:
        """That of the specification, with what the request has of its own."""
        merged: dict[str, Any] = {}
        for value in (self.content.get("calibration"), own):
            part = {"path": value} if isinstance(value, str) else self._mapping(value or {}, "calibration")
            if isinstance(part.get("path"), str):
                part = {**part, "path": self._beside(part["path"])}
            merged |= part
        if self.instead.calibration is not None and own is None:
            merged["path"] = self.instead.calibration
        try:
            return QuantizeRequest.from_dict({"calibration": merged}).calibration
        except ConfigError as error:
            self._fail(str(error))

    def _names(self, key: str) -> dict[str, Any]:
        """The mapping at `key`, whose keys become parts of file names and of tables."""
        found = self._mapping(self.content.get(key), key)
        if not found:
            self._fail(f"{key} must name at least one of them, as in {key}: {{NAME: ...}}")
        for name in found:
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= LONGEST:
                self._fail(f"{key}: a name is a string of 1 to {LONGEST} characters on one line; got {shown(name)}")
        return found

    def _list(self, key: str, default: list[Any], is_one: Callable[[Any], bool], words: str) -> list[Any]:
        found = self.content.get(key, default)
        if not isinstance(found, list) or not all(is_one(value) for value in found) or (key in self.content and not found):
            self._fail(f"{key} must be a list of {words}; got {shown(found)}")
        return list(dict.fromkeys(found))

    def _get(self, key: str, default: Any, is_one: type | Callable[[Any], bool], words: str) -> Any:
        found = self.content.get(key, default)
        good = isinstance(found, is_one) if isinstance(is_one, type) else is_one(found)
        if found is not default and not good:
            self._fail(f"{key} must be {words}; got {shown(found)}")
        return found

    def _mapping(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self._fail(f"{what} must be names with values; got {shown(value)}")
        return dict(value)

    def _beside(self, path: str) -> str:
        return str(self.path.parent / path)

    def _fail(self, sentence: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {sentence}")


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 62


def _seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6 and math.isfinite(value)


def _hint(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."


def shown(value: Any) -> str:
    """A value of a file in a message: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
