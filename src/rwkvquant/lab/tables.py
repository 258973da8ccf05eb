"""Cells -> a table in Markdown and a CSV file for each specification. The differences to the reference are paired (measuring.md).

Nothing is measured here, and torch is not needed.
"""

from __future__ import annotations

import csv
import io
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rwkvquant.formats.disk import replace_file
from rwkvquant.lab.markdown import bracket, plain
from rwkvquant.lab.positions import position_tables
from rwkvquant.lab.rows import TableRow, paired, table_rows
from rwkvquant.lab.store import Store
from rwkvquant.lab.studies.tables import study_csv, study_markdown

SAME = ("rwkvquant", "code", "torch", "numpy", "cpu", "threads")  # conditions that should not differ within a table
LEAK = 0.001  # of the runs of 16 tokens: below this, quotations and set phrases
NUMBERS = (
    "bits_per_weight",
    "bits_per_weight_file",
    "file_bytes",
    "kl_mean",
    "kl_p99",
    "kl_max",
    "top1_agreement",
    "ppl_base",
    "ppl_quantized",
    "delta_ppl",
    "tokens",
    "processor_seconds",
)
OTHER = ("mean", "low", "high")  # of the KL of another forward


def write_tables(work_dir: str | Path) -> dict[str, str]:
    """Write tables/NAME.md and tables/NAME.csv for each specification -> the Markdown of each, by name.

    Raises RwkvQuantError where no specification was run.
    """
    store = Store(Path(work_dir))
    written = {}
    for name, spec in store.specs().items():
        rows = table_rows(store, spec)
        if spec.get("study"):
            written[name], fields = study_markdown(spec, rows, same_conditions(rows)), study_csv(spec, rows)
        else:
            written[name] = "\n".join(part for part in (markdown(spec, rows), position_tables(rows)) if part)
            fields = csv_text(rows)
        folder = store.folder("tables")
        replace_file(folder / f"{name}.md", written[name].encode())
        replace_file(folder / f"{name}.csv", fields.encode())
    return written


def markdown(spec: Mapping[str, Any], rows: Sequence[TableRow]) -> str:
    """A title, a paragraph of conditions, and a table for each model. KL in 1/1000 nats per token; brackets are 95 % intervals."""
    parts = [f"# {plain(spec['title'])}", _conditions(rows)]
    for model, group in itertools.groupby(sorted(rows, key=lambda row: _first(rows, row.model)), key=lambda row: row.model):
        of_model = list(group)
        parts.append(f"## {plain(model)}\n\n{_table(of_model, spec.get('reference'))}")
    return "\n\n".join(parts) + "\n"


def _first(rows: Sequence[TableRow], model: str) -> int:
    return next(index for index, row in enumerate(rows) if row.model == model)


def _table(rows: Sequence[TableRow], reference: str | None) -> str:
    seeds = len({row.seed for row in rows}) > 1
    head = ["row", *(["seed"] if seeds else []), "bits", "bytes", "KL x 1000", *([f"KL / {plain(reference)}"] if reference else [])]
    head += ["p99 x 1000", "same top, %", "ppl", "s"]
    others = other_forwards(rows)
    head += [f"KL x 1000, {name}" for name in others]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        start = [plain(row.label), *([str(row.seed)] if seeds else [])]
        lines.append([*start, *_numbers(row, reference is not None, others), *[""] * len(head)][: len(head)])
    if seeds:
        lines += _means(rows, len(head))
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def other_forwards(rows: Sequence[TableRow]) -> list[str]:
    """The names of the forwards that some cell was measured with besides torch."""
    return list(dict.fromkeys(name for row in rows for name in row.results.get("forwards", {})))


def _numbers(row: TableRow, compared: bool, others: Sequence[str]) -> list[str]:
    found = row.results
    if not found:
        return [plain(row.cell.get("error") or "not run yet")]
    kl = f"{1000 * found['kl_mean']:.3f}{bracket(found['kl_ci95'], 1000)}"
    ratio = f"{row.against['ratio']:.3f}{bracket(row.against['ratio_ci95'], 1)}" if row.against else ""
    seconds = found["processor_seconds"]
    return [
        f"{found['bits_per_weight']:.3f}" if found["bits_per_weight"] is not None else "",
        f"{found['file_bytes']:,}",
        kl,
        *([ratio] if compared else []),
        f"{1000 * found['kl_p99']:.1f}",
        f"{100 * found['top1_agreement']:.2f}",
        f"{found['ppl_quantized']:.3f}",
        f"{seconds:.0f}{'*' if found['skipped_pass_1'] else ''}",
        *(_other(found, name) for name in others),
    ]


def _other(found: Mapping[str, Any], name: str) -> str:
    """The KL of another forward, and in parentheses over that of the torch forward, with a paired interval."""
    other = found.get("forwards", {}).get(name)
    if other is None:
        return ""
    ratio, ratio_ci95 = paired(other, found)[1]
    return f"{1000 * other['kl_mean']:.3f} (x {ratio:.3f}{bracket(ratio_ci95, 1)})"


def _means(rows: Sequence[TableRow], width: int) -> list[list[str]]:
    """For each label that has several seeds: the mean KL, with the smallest and the largest."""
    lines = []
    for label in dict.fromkeys(row.label for row in rows):
        values = [1000 * row.results["kl_mean"] for row in rows if row.label == label and row.results]
        if len(values) > 1:
            mean = f"{statistics.fmean(values):.3f} ({min(values):.3f} to {max(values):.3f})"
            lines.append([plain(label), f"{len(values)} seeds", "", "", mean, *[""] * width][:width])
    return lines


def same_conditions(rows: Sequence[TableRow]) -> str:
    """How many cells are done, and what they were measured with."""
    done = [row for row in rows if row.results]
    failed = sum(row.cell.get("state") == "failed" for row in rows)
    sentences = [f"{len(done)} of {len(rows)} cells are done" + (f", {failed} failed." if failed else ".")]
    for name in SAME if done else ():
        values = sorted({str(row.cell["conditions"][name]) for row in done})
        sentences.append(f"{name}: {values[0]}." if len(values) == 1 else f"**Cells differ in {name}: {', '.join(values)}.**")
    return " ".join(sentences)


def _conditions(rows: Sequence[TableRow]) -> str:
    done = [row for row in rows if row.results]
    sentences = [same_conditions(rows)]
    if not done:
        return sentences[0]
    for model in dict.fromkeys(row.model for row in done):
        first = next(row for row in done if row.model == model)
        if any(row.results["windows_sha256"] != first.results["windows_sha256"] for row in done if row.model == model):
            sentences.append(f"**Cells of {plain(model)} were measured on different windows.**")
        sentences.append(
            f"{plain(model)}: perplexity of the original {first.results['ppl_base']:.3f} on {first.results['tokens']:,} tokens."
        )
    if leaks := {row.label: share for row in done if (share := row.results.get("shared_16_grams") or 0) > LEAK}:
        worst = max(leaks, key=lambda label: leaks[label])
        sentences.append(
            f"**The calibration text of {len(leaks)} rows has parts of the measured text: {100 * leaks[worst]:.1f} % of its runs of "
            f"16 tokens ({plain(worst)}).**"
        )
    if short := [row for row in done if row.results.get("calibration_rows") and row.results["calibration_rows"] < _rows_asked(row)]:
        worst_row = min(short, key=lambda row: row.results["calibration_rows"] / _rows_asked(row))
        sentences.append(
            f"**The calibration text of {len(short)} rows is shorter than asked: {worst_row.results['calibration_rows']} rows, not "
            f"{_rows_asked(worst_row)} ({plain(worst_row.label)}).**"
        )
    sentences.append(
        "KL in 1/1000 nats per token; brackets are 95 % intervals; s: processor seconds, * without pass 1, of an earlier cell."
    )
    if others := other_forwards(rows):
        sentences.append(
            f"Columns of {', '.join(others)}: the KL of these forwards from the same predictions of the original, and in parentheses over "
            "that of the torch forward, paired."
        )
    return " ".join(sentences)


def _rows_asked(row: TableRow) -> int:
    """Of a cell that quantised."""
    asked: int = row.cell["question"]["options"]["calibration"]["rows"]
    return asked


def csv_text(rows: Sequence[TableRow]) -> str:
    """One line for each row; KL in nats per token."""
    head = ["model", "row", "series", "label", "seed", "state", *NUMBERS, "kl_low", "kl_high"]
    others = [f"kl_{part}_{name}" for name in other_forwards(rows) for part in OTHER]
    head += ["kl_difference", "kl_difference_low", "kl_difference_high", *others, "key", "error"]
    out = io.StringIO()
    writer = csv.DictWriter(out, head, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        found, against = row.results, row.against or {}
        line: dict[str, Any] = {name: found.get(name) for name in NUMBERS}
        line |= {"model": row.model, "row": row.row, "series": row.series, "label": row.label, "seed": row.seed}
        line |= {"state": row.cell.get("state", "not run yet"), "key": row.cell.get("key"), "error": row.cell.get("error")}
        line["kl_low"], line["kl_high"] = found.get("kl_ci95") or (None, None)
        for name, other in found.get("forwards", {}).items():
            low, high = other["kl_ci95"] or (None, None)
            line |= dict(zip((f"kl_{part}_{name}" for part in OTHER), (other["kl_mean"], low, high), strict=True))
        line["kl_difference"] = against.get("kl_difference")
        line["kl_difference_low"], line["kl_difference_high"] = against.get("ci95") or (None, None)
        writer.writerow(line)
    return out.getvalue()
