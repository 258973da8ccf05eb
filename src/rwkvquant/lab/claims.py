"""Claims, judged by cells: a number of ours with its interval next to the paper's, and whether the claim holds.

    title: Claims about quantised RWKV
    claims:
      - claim: AWQ loses less than rounding to nearest
        paper: "27.62 and 35.21 perplexity (Table 2)"
        rows: [methods/awq, methods/rtn]         # SPECIFICATION/LABEL, twice
        below: 1                                 # the claim: KL of the first over KL of the second is below this
        models: [rwkv7-tiny, rwkv7-8m]           # or: that ratio of the first model over that of the second is below it
        across: {rwkv7-8m-edited: rwkv7-8m}      # or: the first row of one model over the second row of the other is below it

A claim holds if the whole paired 95 % interval of the ratio is below, does not if the whole interval is above, and else the cells cannot
tell. Each model that has both cells is judged by itself. With `models`, the interval goes from the least to the largest quotient of numbers
in the two intervals, which is wider than 95 %. `note` is a sentence for the reader.

    json: ../../benchmarks/results/transform_flops.json
    values: {x070-0.1b: [shapes, x070-0.1b, shared]}     # a number, or {"value": ..., "ci95": [low, high]}, by its keys in the file
    over: {x070-0.1b: [shapes, x070-0.1b, products]}     # if the claim is of a ratio: what the numbers are divided by
    above: 0.9                                           # or below
    unit: of the operations of products

judges numbers of a benchmark's file in the same way.

    number: table1/8 clusters, over llama-8m             # SPECIFICATION/COLUMN of a study
    of: [rwkv7-8m, rwkv6-8m]                             # labels of its lines; all that have a number, if it is left out

judges numbers of studies (studies/). A claim with none of these is listed with its `note` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.lab.markdown import plain
from rwkvquant.lab.rows import TableRow, compared, table_rows
from rwkvquant.lab.store import Store
from rwkvquant.lab.studies.study import Line, Value
from rwkvquant.lab.studies.tables import study_lines
from rwkvquant.lab.yaml_file import read_yaml

WIDTH = 120  # of a line
KEYS = ("claim", "paper", "rows", "models", "across", "below", "note", "json", "values", "over", "number", "of", "above", "unit")


@dataclass(frozen=True)
class Number:
    """A number of a benchmark or a study with its interval; without one, low and high are the number."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """`rows`: (specification, label) of the two cells, or None; `models`: two whose ratios are compared, or None; `across`: the model of
    the second cell for each model of the first, or None where it is the same.
    `numbers`: those of a benchmark's file, or None.
    `column`: (specification, column) of a study, or None; `of`: labels of its lines, empty for all.

    The claim: all of a number's interval is below `below`, or above `above`.
    """

    claim: str
    paper: str
    rows: tuple[tuple[str, str], tuple[str, str]] | None
    models: tuple[str, str] | None
    across: Mapping[str, str] | None
    numbers: tuple[Number, ...] | None
    column: tuple[str, str] | None
    of: tuple[str, ...]
    below: float | None
    above: float | None
    unit: str
    note: str

    def verdict(self, low: float, high: float) -> str:
        if self.above is not None:
            return "holds" if low > self.above else "does not hold" if high < self.above else "cannot tell"
        assert self.below is not None
        return "holds" if high < self.below else "does not hold" if low > self.below else "cannot tell"


def claims_text(work_dir: str | Path, path: str | Path) -> str:
    """Markdown. Raises ConfigError for a file that is no list of claims, RwkvQuantError where no specification was run."""
    title, claims = read_claims(Path(path))
    store = Store(Path(work_dir))
    specs = store.specs()
    rows = {name: table_rows(store, spec) for name, spec in specs.items()}
    studies = {name: study_lines(spec, rows[name]) for name, spec in specs.items() if spec.get("study")}
    lines = [f"# {plain(title)}", "", "| claim | the paper | model | ours | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        if claim.column is not None:
            claim = replace(claim, numbers=_of_study(claim, studies))
        found = judged(claim, rows)
        first = [plain(claim.claim), plain(claim.paper)]
        for number, (model, ours, verdict) in enumerate(found or [("", "", "not measured" if claim.rows or claim.column else "see below")]):
            lines.append(f"| {' | '.join(first if number == 0 else ['', ''])} | {plain(model)} | {ours} | {verdict} |")
    notes = [fill(f"- {plain(claim.claim)}: {plain(claim.note)}", WIDTH, subsequent_indent="  ") for claim in claims if claim.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def judged(claim: Claim, rows: Mapping[str, list[TableRow]]) -> list[tuple[str, str, str]]:
    """(model, ratio with its interval, verdict) for each model that has both cells, or for the models of the claim."""
    if claim.numbers is not None:
        return [(each.label, _shown(each, claim.unit), claim.verdict(each.low, each.high)) for each in claim.numbers]
    if claim.rows is None:
        return []
    ours, others = ({row.model: row for row in reversed(rows.get(spec, [])) if row.label == label} for spec, label in claim.rows)
    found = []
    for model, other in (claim.across or {model: model for model in ours}).items():
        if model in ours and other in others and (against := compared(ours[model], others[other]).against):
            low, high = against["ratio_ci95"] or (against["ratio"], against["ratio"])
            found.append(Number(model if model == other else f"{model} over {other}", against["ratio"], low, high))
    if claim.models is not None:
        ratios = {ratio.label: ratio for ratio in found}
        found = [_quotient(*(ratios[model] for model in claim.models))] if ratios.keys() >= set(claim.models) else []
    words = "KL x {0.value:.3f} [{0.low:.3f}, {0.high:.3f}]" if claim.models is None else "{0.value:.3f} [{0.low:.3f}, {0.high:.3f}]"
    return [(ratio.label, words.format(ratio), claim.verdict(ratio.low, ratio.high)) for ratio in found]


def _quotient(one: Number, other: Number) -> Number:
    return Number(f"{one.label} over {other.label}", one.value / other.value, one.low / other.high, one.high / other.low)


def _of_study(claim: Claim, studies: Mapping[str, list[Line]]) -> tuple[Number, ...]:
    """Those of its lines that have the number."""
    assert claim.column is not None
    spec, column = claim.column
    found = []
    for line in studies.get(spec, []):
        value = line.numbers.get(column)
        if (line.label in claim.of or not claim.of) and value is not None and not isinstance(value, str):
            number, interval = (value.value, value.interval) if isinstance(value, Value) else (value, None)
            found.append(Number(line.label, number, *(interval or (number, number))))
    return tuple(found)


def _shown(number: Number, unit: str) -> str:
    interval = f" [{number.low:.4g}, {number.high:.4g}]" if number.low < number.high else ""
    return plain(f"{number.value:.4g}{interval} {unit}")


def read_claims(path: Path) -> tuple[str, list[Claim]]:
    content = read_yaml(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("claims"), list) or not isinstance(content.get("title"), str):
        raise ConfigError(f"{path}: a file of claims has a title and a list of claims")
    return content["title"], [_claim(each, path) for each in content["claims"]]


def _claim(entry: Any, path: Path) -> Claim:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("claim"), str):
        raise ConfigError(f"{path}: each claim is names with values, of which claim is a sentence")
    where = f"{path}: the claim {entry['claim'][:60]!r}"
    for key in entry:
        if key not in KEYS:
            raise ConfigError(f"{where} has {str(key)[:40]!r}; it may have {', '.join(KEYS)}")
    bounds = {name: entry[name] for name in ("below", "above") if name in entry}
    sources = [name for name in ("rows", "json", "number") if entry.get(name) is not None]
    if len(sources) > 1 or not all(map(_is_number, bounds.values())):
        raise ConfigError(f"{where} has one of rows, json and number; below and above are numbers")
    if sources in (["json"], ["number"]) and len(bounds) != 1:
        raise ConfigError(f"{where}: {sources[0]} needs one number, below or above")
    rows: Any = entry.get("rows")
    column: Any = entry.get("number")
    of: Any = entry.get("of", [])
    if sources == ["rows"]:
        if not (isinstance(rows, list) and len(rows) == 2 and all(map(_is_pair, rows)) and "above" not in bounds):
            raise ConfigError(f"{where} needs rows: [SPECIFICATION/LABEL, SPECIFICATION/LABEL] and a number below")
        bounds = {"below": float(bounds.get("below", 1))}
    models: Any = entry.get("models")
    if models is not None and not (sources == ["rows"] and isinstance(models, list) and len(models) == 2 and all(map(_is_name, models))):
        raise ConfigError(f"{where}: models are the names of two models, and need rows")
    across: Any = entry.get("across")
    if across is not None and not (sources == ["rows"] and models is None and isinstance(across, Mapping) and _are_names(across)):
        raise ConfigError(f"{where}: across has names of models by names of models, and needs rows without models")
    if sources == ["number"] and not (_is_pair(column) and isinstance(of, list) and all(map(_is_name, of))):
        raise ConfigError(f"{where}: number is SPECIFICATION/COLUMN, and of is a list of labels")
    return Claim(
        claim=entry["claim"],
        paper=str(entry.get("paper", "")),
        rows=(_pair(rows[0]), _pair(rows[1])) if sources == ["rows"] else None,
        models=(models[0], models[1]) if models is not None else None,
        across=across,
        numbers=_numbers(entry, path, where) if sources == ["json"] else None,
        column=_pair(column) if sources == ["number"] else None,
        of=tuple(of) if sources == ["number"] else (),
        below=bounds.get("below") if sources else None,
        above=bounds.get("above") if sources else None,
        unit=str(entry.get("unit", "")),
        note=str(entry.get("note", "")),
    )


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _are_names(values: Mapping[Any, Any]) -> bool:
    return all(map(_is_name, values)) and all(map(_is_name, values.values()))


def _is_pair(value: Any) -> bool:
    return isinstance(value, str) and "/" in value


def _pair(value: str) -> tuple[str, str]:
    first, _, second = value.partition("/")
    return first, second


def _numbers(entry: Mapping[str, Any], path: Path, where: str) -> tuple[Number, ...]:
    values = entry.get("values")
    if not isinstance(entry["json"], str) or not isinstance(values, Mapping) or not values:
        raise ConfigError(f"{where}: json is a file, and values are names with the keys of a number in it")
    file = path.parent / entry["json"]
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ConfigError(f"{where}: {file} cannot be read as JSON") from None
    over = entry.get("over", {})
    if not isinstance(over, Mapping) or over.keys() - values.keys():
        raise ConfigError(f"{where}: over has the names of values, each with the keys of a number")
    found = []
    for label, keys in values.items():
        (number, low, high), (divisor, *_) = _number(content, keys), _number(content, over[label]) if label in over else (1.0,)
        if number is None or not divisor:
            raise ConfigError(f"{where}: {file} has no number at {keys if number is None else over[label]}")
        found.append(Number(str(label), number / divisor, low / divisor, high / divisor))
    return tuple(found)


def _number(content: Any, keys: Any) -> tuple[float, float, float] | tuple[None, float, float]:
    """The number at these keys of a JSON document, and the ends of its interval; (None, 0, 0) if there is none."""
    value = content
    for key in keys if isinstance(keys, list) else [keys]:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            return None, 0.0, 0.0
    number, ci95 = (value.get("value"), value.get("ci95")) if isinstance(value, Mapping) else (value, None)
    if number is None or not _is_number(number):
        return None, 0.0, 0.0
    low, high = ci95 or (number, number)
    return float(number), float(low), float(high)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
