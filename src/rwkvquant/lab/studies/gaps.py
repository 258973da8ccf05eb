"""Figure 1 of RWKVQuant: are RWKV's weights spread more evenly than a transformer's?

Two views of each projection:

    sorted weights    (W' - mean) / std at evenly spaced ranks; a straight line for uniform weights
    P_c               the paper's measure of the gaps between sorted weights (selection/proxy.py), by the reading "dithered"

P_c grows with the number of weights, so it is compared with that of Gaussian weights of the same number: below 0 is more uniform.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies.matrices import difference, matrices, mean, of_checkpoint, rounded
from rwkvquant.lab.studies.study import Entry, Line, Study, label_of, other_of
from rwkvquant.selection.proxy import proxies

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel

RANKS = 200  # (i + 1/2) / 200 of the sorted weights


@dataclass(frozen=True)
class Gaps(Study):
    name = "gaps"
    about = (
        "P_c by the reading dithered; above Gaussian: less the P_c of as many Gaussian weights, below 0 is more uniform. Range: the "
        "largest less the smallest weight, in standard deviations. Means over projections; brackets are 95 % intervals of a bootstrap over "
        "the projections."
    )

    def question(self, model: LabModel) -> dict[str, Any]:
        return {**of_checkpoint(model), "kind": self.name, "ranks": RANKS}

    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        found, curves = [], []
        for matrix in matrices(model):
            coarse = proxies(matrix.W, "dithered", matrix.dtype).coarse
            w, std = np.sort(matrix.W, axis=None).astype(np.float64), float(matrix.W.std(dtype=np.float64)) or 1.0
            found.append(
                {
                    "matrix": matrix.name,
                    "projection": matrix.projection,
                    "P_c": rounded(coarse),
                    "above_gaussian": rounded(coarse - gaussian_coarse(w.size)),
                    "range": rounded((w[-1] - w[0]) / std),
                }
            )
            if matrix.projection:
                curves.append((w[((np.arange(RANKS) + 0.5) / RANKS * w.size).astype(int)] - w.mean()) / std)
        return {"matrices": found, "sorted": [rounded(value) for value in np.mean(curves, 0).tolist()]}

    @staticmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        lines = []
        for row in rows:
            other, above = other_of(row, rows, reference), _values(row, "above_gaussian")
            numbers: dict[str, Entry] = {
                "projections": len(above),
                "P_c": mean(_values(row, "P_c")),
                "above Gaussian": mean(above),
                f"above Gaussian, minus {reference}": difference(above, _values(other, "above_gaussian")) if other else None,
                "range": mean(_values(row, "range")),
            }
            lines.append(Line(label_of(row, rows), numbers))
        return lines

    @staticmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        weights, even = figure.subplots(1, 2)
        ranks = (np.arange(RANKS) + 0.5) / RANKS
        for row in rows:
            weights.plot(ranks, row.results["sorted"], linewidth=1.2, label=label_of(row, rows))
            own = sorted(_values(row, "above_gaussian"))
            even.plot((np.arange(len(own)) + 0.5) / len(own), own, linewidth=1, marker=".", label=label_of(row, rows))
        gaussian = [NormalDist().inv_cdf(rank) for rank in ranks.tolist()]
        weights.plot(ranks, gaussian, color="black", linewidth=1, linestyle="--", label="Gaussian")
        weights.plot(ranks, 12**0.5 * (ranks - 0.5), color="black", linewidth=1, linestyle=":", label="uniform")
        even.axhline(0, color="black", linewidth=1, linestyle="--", label="Gaussian")
        weights.set_xlabel("rank of the weight")
        weights.set_ylabel("sorted weights, standard deviations")
        even.set_xlabel("projections, sorted")
        even.set_ylabel("P_c above that of Gaussian weights")
        for axes in (weights, even):
            axes.grid(True, alpha=0.25)
            axes.legend(fontsize="small")
        return figure


@functools.lru_cache(maxsize=64)
def gaussian_coarse(count: int) -> float:
    """P_c of `count` Gaussian weights; it does not depend on their scale."""
    return proxies(np.random.default_rng(0).standard_normal(count, np.float32), "dithered", "float32").coarse


def _values(row: TableRow, name: str) -> list[float]:
    return [each[name] for each in row.results["matrices"] if each["projection"]]
