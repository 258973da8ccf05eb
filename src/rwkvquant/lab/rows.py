"""The rows of a specification with their cells, and paired differences between cells (measuring.md). Torch is not needed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.lab.store import Store

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class TableRow:
    """A row of a specification with its cell, which is {} if it was not run yet.

    `against`: "kl_difference" to the reference (this minus reference, in nats), its "ci95", and "ratio"; None for the reference itself.
    """

    model: str
    row: str
    series: str
    label: str
    bits: float | None
    seed: int
    cell: Mapping[str, Any]
    against: Mapping[str, Any] | None = None

    @property
    def results(self) -> Mapping[str, Any]:
        """{} unless the cell is done."""
        results: Mapping[str, Any] = self.cell.get("results", {}) if self.cell.get("state") == "done" else {}
        return results


def table_rows(store: Store, spec: Mapping[str, Any]) -> list[TableRow]:
    """In the order of the specification."""
    rows = [
        TableRow(**{name: each[name] for name in ("model", "row", "series", "label", "bits", "seed")}, cell=store.read(each["key"]) or {})
        for each in spec["rows"]
    ]
    reference = spec.get("reference")
    if reference is None or spec.get("study"):  # a study compares models, in its own numbers
        return rows
    return [compared(row, _reference(rows, row, reference)) for row in rows]


def _reference(rows: Sequence[TableRow], row: TableRow, reference: str) -> TableRow | None:
    """The row of this name for the same model and seed: with the same bits, or else the first one."""
    same = [each for each in rows if (each.row, each.model, each.seed) == (reference, row.model, row.seed)]
    return next((each for each in same if each.bits == row.bits), same[0] if same else None)


def compared(row: TableRow, reference: TableRow | None) -> TableRow:
    """The row with `against`, where both are done and were measured on the same windows."""
    if reference is None or row is reference or not (row.results and reference.results):
        return row
    a, b = row.results, reference.results
    if a["windows_sha256"] != b["windows_sha256"]:
        return row
    (difference, difference_ci95), (ratio, ratio_ci95) = paired(a, b)
    against = {"kl_difference": difference, "ci95": difference_ci95, "ratio": ratio, "ratio_ci95": ratio_ci95}
    return replace(row, against=against)


def paired(a: Mapping[str, Any], b: Mapping[str, Any]) -> tuple[tuple[float, Interval], tuple[float, Interval]]:
    """Numbers on the same windows -> (KL of a minus KL of b, its interval), (KL of a over KL of b, its interval)."""
    tokens = np.array(a["each_window"]["tokens"], np.int64)
    sums = np.stack([np.array(results["each_window"]["kl"]) for results in (a, b)])
    here, there = resampled_means(sums, tokens)
    difference = a["kl_mean"] - b["kl_mean"], interval(here - there, len(tokens))
    return difference, (a["kl_mean"] / b["kl_mean"], interval(here / there, len(tokens)))
