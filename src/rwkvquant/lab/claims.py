"""Claims, judged by cells: a number of ours with its interval next to the paper's, and whether the claim holds.

    title: Claims about quantised RWKV
    claims:
      - claim: AWQ loses less than rounding to nearest
        paper: "27.62 and 35.21 perplexity (Table 2)"
        rows: [methods/awq, methods/rtn]         # SPECIFICATION/LABEL, twice
        below: 1                                 # the claim: KL of the first over KL of the second is below this

A claim holds if the whole paired 95 % interval of the ratio is below, does not if the whole interval is above, and else the cells cannot
tell. Each model that has both cells is judged by itself. `note` is a sentence for the reader. A claim without `rows` is listed with its
`note` alone.
"""

from __future__ import annotations

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
KEYS = ("claim", "paper", "rows", "below", "note")


@dataclass(frozen=True)
class Claim:
    """`rows`: (specification, label) of the two cells, or None."""

    claim: str
    paper: str
    rows: tuple[tuple[str, str], tuple[str, str]] | None
    below: float
    note: str


def claims_text(work_dir: str | Path, path: str | Path) -> str:
    """Markdown. Raises ConfigError for a file that is no list of claims, RwkvQuantError where no specification was run."""
    title, claims = read_claims(Path(path))
    store = Store(Path(work_dir))
    rows = {name: table_rows(store, spec) for name, spec in store.specs().items()}
    lines = [f"# {plain(title)}", "", "| claim | the paper | model | ours | verdict |", "|---|---|---|---|---|"]
    for claim in claims:
        found = judged(claim, rows)
        first = [plain(claim.claim), plain(claim.paper)]
        for number, (model, ours, verdict) in enumerate(found or [("", "", "not measured" if claim.rows else "cannot be measured here")]):
            lines.append(f"| {' | '.join(first if number == 0 else ['', ''])} | {plain(model)} | {ours} | {verdict} |")
    notes = [fill(f"- {plain(claim.claim)}: {plain(claim.note)}", WIDTH, subsequent_indent="  ") for claim in claims if claim.note]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def judged(claim: Claim, rows: Mapping[str, list[TableRow]]) -> list[tuple[str, str, str]]:
    """(model, ratio with its interval, verdict) for each model that has both cells."""
    if claim.rows is None:
        return []
    ours, others = ({row.model: row for row in reversed(rows.get(spec, [])) if row.label == label} for spec, label in claim.rows)
    found = []
    for model in dict.fromkeys(ours):
        if model in others and (against := compared(ours[model], others[model]).against):
            low, high = against["ratio_ci95"] or (against["ratio"], against["ratio"])
            verdict = "holds" if high < claim.below else "does not hold" if low > claim.below else "cannot tell"
            found.append((model, f"KL x {against['ratio']:.3f} [{low:.3f}, {high:.3f}]", verdict))
    return found


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
    rows, below = entry.get("rows"), entry.get("below", 1)
    pairs = None
    if rows is not None:
        good = isinstance(rows, list) and len(rows) == 2 and all(isinstance(row, str) and "/" in row for row in rows)
        if not good or isinstance(below, bool) or not isinstance(below, int | float):
            raise ConfigError(f"{where} needs rows: [SPECIFICATION/LABEL, SPECIFICATION/LABEL] and a number below")
        first, second = (tuple(row.split("/", 1)) for row in rows)
        pairs = ((first[0], first[1]), (second[0], second[1]))
    return Claim(entry["claim"], str(entry.get("paper", "")), pairs, float(below) if rows is not None else 1.0, str(entry.get("note", "")))
