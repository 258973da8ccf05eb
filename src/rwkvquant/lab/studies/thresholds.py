"""Figure 5 of RWKVQuant: how many matrices would get SQ by the fixed thresholds of its authors, Eq. (18) of selection/algorithm1.py?

P_c and P_f of each matrix are measured in the three readings of "the gaps" (docs/methods/proxy.md). The thresholds make sense for the
reading "unique" only, which the authors' code computes. It mostly sees the number format, so models are compared in one format.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvquant.errors import ConfigError
from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies.matrices import matrices, of_checkpoint, rounded
from rwkvquant.lab.studies.study import Entry, Line, Study, label_of
from rwkvquant.selection.algorithm1 import FIXED_THRESHOLDS, Thresholds, choose
from rwkvquant.selection.proxy import READINGS, in_bfloat16, proxies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel

ORDER = 4  # K of P_f


@dataclass(frozen=True)
class ThresholdShares(Study):
    """`dtype`: what weights are rounded to first; None for as they are."""

    dtype: str | None = None
    name = "thresholds"
    about = (
        "SQ: what is below these thresholds of P_c and P_f, in per cent of the matrices (projections and LoRA factors), and of their "
        "weights. P_c: quartiles of the matrices."
    )

    def __post_init__(self) -> None:
        if self.dtype not in (None, "bfloat16"):
            raise ConfigError(f"dtype must be bfloat16, or be left out; got {str(self.dtype)[:40]}")

    def question(self, model: LabModel) -> dict[str, Any]:
        return {**of_checkpoint(model), "kind": self.name, "order": ORDER, "dtype": self.dtype}

    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        found = []
        for matrix in matrices(model):
            W = in_bfloat16(matrix.W) if self.dtype else matrix.W
            measured = {reading: proxies(W, reading, self.dtype or matrix.dtype) for reading in READINGS}
            pairs = {reading: [rounded(each.coarse), rounded(each.fine(ORDER))] for reading, each in measured.items()}
            found.append({"matrix": matrix.name, "projection": matrix.projection, "weights": matrix.W.size, **pairs})
        return {"matrices": found}

    @staticmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        return [Line(f"{label_of(row, rows)}, {reading}", _numbers(row, reading)) for row in rows for reading in READINGS]

    @staticmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        """The share of SQ in each reading, and P_c and P_f of each matrix in the reading of the authors' code."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        shares, plane = figure.subplots(1, 2)
        thresholds = FIXED_THRESHOLDS["paper-figure5"]
        width = 0.8 / len(rows)
        for index, row in enumerate(rows):
            at = np.arange(len(READINGS)) + (index - (len(rows) - 1) / 2) * width
            heights = [100 * shares_of(row, reading, thresholds)["matrices"] for reading in READINGS]
            shares.bar(at, heights, width, label=label_of(row, rows))
            points = np.array([each["unique"] for each in row.results["matrices"]])
            plane.scatter(points[:, 0], points[:, 1], s=8, label=label_of(row, rows))
        shares.set_xticks(range(len(READINGS)), READINGS)
        shares.set_ylabel(f"SQ by {_named(thresholds)}, % of matrices")
        shares.set_ylim(0, 100)
        plane.axvline(thresholds.coarse, color="black", linewidth=1, linestyle="--")
        plane.axhline(thresholds.fine, color="black", linewidth=1, linestyle="--")
        plane.set_yscale("log")
        plane.set_xlabel("P_c, unique")
        plane.set_ylabel("P_f, unique")
        for axes in (shares, plane):
            axes.legend(fontsize="small")
            axes.grid(True, alpha=0.25)
        return figure


def shares_of(row: TableRow, reading: str, thresholds: Thresholds) -> dict[str, float]:
    """The share of SQ, 0 to 1, of the "matrices" and of their "weights"."""
    found = row.results["matrices"]
    kinds = choose({each["matrix"]: (each[reading][0], each[reading][1]) for each in found}, thresholds)
    chosen = [each["weights"] for each in found if kinds[each["matrix"]] == "uniform"]
    return {"matrices": len(chosen) / len(found), "weights": sum(chosen) / sum(each["weights"] for each in found)}


def _numbers(row: TableRow, reading: str) -> dict[str, Entry]:
    low, middle, high = np.quantile([each[reading][0] for each in row.results["matrices"]], [0.25, 0.5, 0.75]).tolist()
    numbers: dict[str, Entry] = {
        "matrices": len(row.results["matrices"]),
        "P_c": f"{low:.2f}, {middle:.2f}, {high:.2f}",
        "P_f, median": float(np.median([each[reading][1] for each in row.results["matrices"]])),
    }
    for thresholds in FIXED_THRESHOLDS.values():
        numbers |= {f"SQ by {_named(thresholds)}, % of {what}": 100 * share for what, share in shares_of(row, reading, thresholds).items()}
    return numbers


def _named(thresholds: Thresholds) -> str:
    return f"{thresholds.coarse:g} and {thresholds.fine:g}"
