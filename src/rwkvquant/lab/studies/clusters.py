"""Table 1 of RWKVQuant: how well do k clusters fit the weights of RWKV and of a transformer? Each matrix is one set of numbers.

The paper does not define its "relative cluster loss". Here it is that of one-dimensional k-means, centroids c of weights w:

    loss       100 sum (w - c)^2 / sum (w - mean w)^2      in per cent of the variance: of 8 clusters 1.56 for uniform weights, 3.46 for a
                                                           Gaussian, 5.4 for a Laplace distribution
    kurtosis   the excess: -1.2 for uniform weights, 0 for a Gaussian

The mean of |w - c| / |w| was tried too: a few weights near 0 decide it, and it says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies.matrices import difference, matrices, mean, of_checkpoint, ratio, rounded
from rwkvquant.lab.studies.study import Entry, Line, Study, label_of, other_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel

CLUSTERS = (8, 16)
POINTS = 1 << 14  # of the sorted weights of a matrix, evenly spaced, decide the clusters; losses are of all weights
UNIFORM, GAUSSIAN = 1.5625, 3.4548  # the loss of 8 clusters, in the limit of many weights


@dataclass(frozen=True)
class Clusters(Study):
    name = "clusters"
    about = (
        "Losses of clusters in per cent of the variance: of 8 clusters 1.56 for uniform weights, 3.46 for a Gaussian. Means over "
        "projections; brackets are 95 % intervals of a bootstrap over the projections."
    )

    def question(self, model: LabModel) -> dict[str, Any]:
        return {**of_checkpoint(model), "kind": self.name, "clusters": list(CLUSTERS), "points": POINTS}

    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        found = [
            {
                "matrix": matrix.name,
                "projection": matrix.projection,
                "losses": {str(k): rounded(cluster_loss(matrix.W, k)) for k in CLUSTERS},
                "kurtosis": rounded(excess_kurtosis(matrix.W)),
            }
            for matrix in matrices(model)
        ]
        return {"matrices": found}

    @staticmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        lines = []
        for row in rows:
            other, own = other_of(row, rows, reference), losses(row, "8")
            numbers: dict[str, Entry] = {"projections": len(own)}
            for k in map(str, CLUSTERS):
                numbers[f"{k} clusters"] = mean(losses(row, k))
                numbers[f"{k} clusters, over {reference}"] = ratio(losses(row, k), losses(other, k)) if other else None
            numbers["kurtosis"] = mean(_kurtosis(row))
            numbers[f"kurtosis, minus {reference}"] = difference(_kurtosis(row), _kurtosis(other)) if other else None
            factors = losses(row, "8", projection=False)
            numbers["LoRA factors, 8 clusters"] = mean(factors) if factors else None
            lines.append(Line(label_of(row, rows), numbers))
        return lines

    @staticmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        """The losses of 8 clusters of all projections, sorted."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.2, 4.4), layout="constrained")
        axes = figure.subplots()
        for row in rows:
            own = sorted(losses(row, "8"))
            axes.plot((np.arange(len(own)) + 0.5) / len(own), own, linewidth=1, marker=".", label=label_of(row, rows))
        for value, name in ((UNIFORM, "uniform"), (GAUSSIAN, "Gaussian")):
            axes.axhline(value, color="black", linewidth=1, linestyle=":" if name == "uniform" else "--", label=name)
        axes.set_xlabel("projections, sorted")
        axes.set_ylabel("loss of 8 clusters, % of the variance")
        axes.set_ylim(bottom=0)
        axes.grid(True, alpha=0.25)
        axes.legend(fontsize="small")
        return figure


def cluster_loss(W: NDArray[np.float32], k: int) -> float:
    """In per cent of the variance of all weights; 0 where they are all equal."""
    import torch

    from rwkvquant.quantizers.shared.clustering import lloyd_kmeans

    w = np.sort(W.ravel()).astype(np.float64)
    x = torch.from_numpy(w[:: max(1, len(w) // POINTS)].copy())[None]
    centroids = lloyd_kmeans(x, torch.ones_like(x), k)[0].numpy()
    apart = w - centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, w)]
    variance = float(((w - w.mean()) ** 2).sum())
    return 100 * float((apart**2).sum()) / variance if variance else 0.0


def excess_kurtosis(W: NDArray[np.float32]) -> float:
    """0 where all weights are equal."""
    w = W.ravel().astype(np.float64)
    std = w.std()
    return float((((w - w.mean()) / std) ** 4).mean() - 3) if std else 0.0


def losses(row: TableRow, k: str, projection: bool = True) -> list[float]:
    return [each["losses"][k] for each in row.results["matrices"] if each["projection"] == projection]


def _kurtosis(row: TableRow) -> list[float]:
    return [each["kurtosis"] for each in row.results["matrices"] if each["projection"]]
