"""Claims, judged by cells: a number of ours with its interval next to the paper's, and whether the claim holds.

    title: Claims about quantised RWKV
    claims:
      - claim: AWQ loses less than rounding to nearest
        paper: "27.62 and 35.21 perplexity (Table 2)"
        rows: [methods/awq, methods/rtn]         # SPECIFICATION/LABEL, twice
        below: 1                                 # the claim: KL of the first over KL of the second is below this

A claim holds if the whole paired 95 % interval of the ratio is below, does not if the whole interval is above, and else the cells cannot
tell. Each model that has both cells is judged by itself. `note` is a sentence for the reader.

    json: ../../benchmarks/results/transform_flops.json
    values: {x070-0.1b: [shapes, x070-0.1b, shared]}     # a number, or {"value": ..., "ci95": [low, high]}, by its keys in the file
    over: {x070-0.1b: [shapes, x070-0.1b, products]}     # if the claim is of a ratio: what the numbers are divided by
    above: 0.9                                           # or below
    unit: of the operations of products

judges numbers of a benchmark's file in the same way. A claim with neither is listed with its `note` alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.lab.markdown import plain
from rwkvquant.lab.rows import TableRow, compared, table_rows
from rwkvquant.lab.store import Store
from rwkvquant.lab.yaml_file import read_yaml

WIDTH = 120  # of a line
KEYS = ("claim", "paper", "rows", "below", "note", "json", "values", "over", "above", "unit")


@dataclass(frozen=True)
class Number:
    """A number of a benchmark with its interval; without one, low and high are the number."""

    label: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Claim:
    """`rows`: (specification, label) of the two cells, or None. `numbers`: those of a benchmark's file, or None.

    The claim: all of a number's interval is below `below`, or above `above`.
    """

    claim: str
    paper: str
    rows: tuple[tuple[str, str], tuple[str, str]] | None
    numbers: tuple[Number, ...] | None
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
    rows = {name: table_rows(store, spec) for name, spec in store.specs().items()}
    lines = [f"# {plain(title)}", "", "| claim | the paper | model | ours | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        found = judged(claim, rows)
        first = [plain(claim.claim), plain(claim.paper)]
        for number, (model, ours, verdict) in enumerate(found or [("", "", "not measured" if claim.rows else "see below")]):
            lines.append(f"| {' | '.join(first if number == 0 else ['', ''])} | {plain(model)} | {ours} | {verdict} |")
    notes = [fill(f"- {plain(claim.claim)}: {plain(claim.note)}", WIDTH, subsequent_indent="  ") for claim in claims if claim.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def judged(claim: Claim, rows: Mapping[str, list[TableRow]]) -> list[tuple[str, str, str]]:
    """(model, ratio with its interval, verdict) for each model that has both cells."""
    if claim.numbers is not None:
        return [(each.label, _shown(each, claim.unit), claim.verdict(each.low, each.high)) for each in claim.numbers]
    if claim.rows is None:
        return []
    ours, others = ({row.model: row for row in reversed(rows.get(spec, [])) if row.label == label} for spec, label in claim.rows)
    found = []
    for model in dict.fromkeys(ours):
        if model in others and (against := compared(ours[model], others[model]).against):
            low, high = against["ratio_ci95"] or (against["ratio"], against["ratio"])
            found.append((model, f"KL x {against['ratio']:.3f} [{low:.3f}, {high:.3f}]", claim.verdict(low, high)))
    return found


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
    rows = entry.get("rows")
    texts = {name: str(entry.get(name, "")) for name in ("paper", "unit", "note")}
    if entry.get("json") is not None:
        bounds = [name for name in ("below", "above") if name in entry]
        if rows is not None or len(bounds) != 1 or not _is_number(entry[bounds[0]]):
            raise ConfigError(f"{where}: json needs one number, below or above, and no rows")
        numbers = _numbers(entry, path, where)
        return Claim(entry["claim"], rows=None, numbers=numbers, below=entry.get("below"), above=entry.get("above"), **texts)
    pairs = None
    if rows is not None:
        good = isinstance(rows, list) and len(rows) == 2 and all(isinstance(row, str) and "/" in row for row in rows)
        if not good or not _is_number(entry.get("below", 1)):
            raise ConfigError(f"{where} needs rows: [SPECIFICATION/LABEL, SPECIFICATION/LABEL] and a number below")
        first, second = (tuple(row.split("/", 1)) for row in rows)
        pairs = ((first[0], first[1]), (second[0], second[1]))
    return Claim(entry["claim"], rows=pairs, numbers=None, below=float(entry.get("below", 1)) if pairs else None, above=None, **texts)


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
