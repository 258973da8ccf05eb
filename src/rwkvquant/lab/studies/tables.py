"""The lines of any study as Markdown, as CSV, and by their labels and columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from rwkvquant.lab.markdown import plain
from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies import study_named
from rwkvquant.lab.studies.study import Entry, Line, Value


def study_lines(spec: Mapping[str, Any], rows: Sequence[TableRow]) -> list[Line]:
    """Of the cells that are done."""
    return study_named(spec["study"]).lines([row for row in rows if row.results], spec.get("reference"))


def study_markdown(spec: Mapping[str, Any], rows: Sequence[TableRow], conditions: str) -> str:
    """One table: a study compares models."""
    lines = study_lines(spec, rows)
    parts = [f"# {plain(spec['title'])}", f"{conditions} {study_named(spec['study']).about}"]
    if lines:
        names = columns(lines)
        table = [["", *(plain(name) for name in names)], ["---"] * (len(names) + 1)]
        table += [[plain(line.label), *(shown(line.numbers.get(name)) for name in names)] for line in lines]
        parts.append("\n".join("| " + " | ".join(line) + " |" for line in table))
    undone = [
        f"- {plain(row.model)}, {plain(row.label)}: {plain(row.cell.get('error') or 'not run yet')}" for row in rows if not row.results
    ]
    return "\n\n".join([*parts, *(["\n".join(undone)] if undone else [])]) + "\n"


def study_csv(spec: Mapping[str, Any], rows: Sequence[TableRow]) -> str:
    """A column for each number, and two for its interval if some line has one."""
    lines = study_lines(spec, rows)
    names = columns(lines)
    with_interval = {name for line in lines for name, value in line.numbers.items() if isinstance(value, Value) and value.interval}
    head = [part for name in names for part in (name, *((f"{name}, low", f"{name}, high") if name in with_interval else ()))]
    out = io.StringIO()
    writer = csv.DictWriter(out, ["label", *head], lineterminator="\n")
    writer.writeheader()
    for line in lines:
        fields: dict[str, Any] = {"label": line.label}
        for name, value in line.numbers.items():
            fields[name] = value.value if isinstance(value, Value) else value
            if isinstance(value, Value) and value.interval:
                fields |= dict(zip((f"{name}, low", f"{name}, high"), value.interval, strict=True))
        writer.writerow({name: field for name, field in fields.items() if name in ("label", *head)})
    return out.getvalue()


def columns(lines: Sequence[Line]) -> list[str]:
    """Of all lines, without those that no line has a number for."""
    return list(dict.fromkeys(name for line in lines for name, value in line.numbers.items() if value is not None))


def shown(value: Entry) -> str:
    if value is None:
        return ""
    if isinstance(value, Value):
        interval = f" [{value.interval[0]:.4g}, {value.interval[1]:.4g}]" if value.interval else ""
        return f"{value.value:.4g}{interval}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else plain(value)
