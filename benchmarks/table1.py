"""Table 1 of RWKVQuant: how well do k clusters fit the weights of RWKV and of a transformer? Each projection is one set of numbers.

    python benchmarks/table1.py NAME=CHECKPOINT [NAME=CHECKPOINT ...] --against NAME --json OUT.json

The paper does not define its "relative cluster loss". Here it is that of one-dimensional k-means, centroids c of weights w:

    squared    100 sum (w - c)^2 / sum (w - mean w)^2       in per cent of the variance: of 8 clusters 1.56 for uniform weights, 3.46 for a
                                                           Gaussian, 5.4 for a Laplace distribution

The mean of |w - c| / |w| was tried too: a few weights near 0 decide it, and it says nothing. Printed are the loss and the excess kurtosis,
-1.2 for uniform weights and 0 for a Gaussian: means over projections, and their ratio to those of the model after --against (of kurtosis
the difference), with 95 % intervals of a bootstrap over the projections of both models.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.evaluation.bootstrap import interval
from rwkvquant.quantizers.shared.clustering import lloyd_kmeans

CLUSTERS = (8, 16)
POINTS = 1 << 14  # of the sorted weights of a matrix, evenly spaced, decide the clusters; losses are of all weights
NAMES = (*(f"squared_{k}" for k in CLUSTERS), "kurtosis")


def losses(W: NDArray[np.float32]) -> list[float]:
    """In the order of NAMES."""
    w = np.sort(W.ravel()).astype(np.float64)
    squared = []
    for k in CLUSTERS:
        x = torch.from_numpy(w[:: max(1, len(w) // POINTS)].copy())[None]
        centroids = lloyd_kmeans(x, torch.ones_like(x), k)[0].numpy()
        apart = w - centroids[np.searchsorted((centroids[1:] + centroids[:-1]) / 2, w)]
        squared.append(float(100 * (apart**2).sum() / ((w - w.mean()) ** 2).sum()))
    return [*squared, float((((w - w.mean()) / w.std()) ** 4).mean() - 3)]


def of_model(path: str) -> NDArray[np.float64]:
    """(projections, quantities)"""
    checkpoint = open_checkpoint(path)
    matrices = [matrix.name for matrix in checkpoint.logical_matrices() if matrix.spec.role is Role.PROJECTION]
    return np.array([losses(checkpoint.read_matrix(name)) for name in matrices])


def compared(ours: NDArray[np.float64], others: NDArray[np.float64]) -> dict[str, Any]:
    """Ratios of means; of the last quantity, kurtosis, the difference."""
    random = np.random.default_rng(0)

    def drawn(rows: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.stack([rows[random.integers(0, len(rows), len(rows))].mean(0) for _ in range(2000)], 1)

    found = {}
    a, b = drawn(ours), drawn(others)
    for at, name in enumerate(NAMES):
        mean, other = ours[:, at].mean(), others[:, at].mean()
        value, draws = (mean - other, a[at] - b[at]) if name == "kurtosis" else (mean / other, a[at] / b[at])
        found[name] = {"value": float(value), "ci95": interval(draws, len(ours))}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", help="NAME=CHECKPOINT")
    parser.add_argument("--against", required=True)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = {name: of_model(path) for name, _, path in (each.partition("=") for each in options.models)}
    results = {
        name: {
            "projections": len(found),
            "mean": {each: float(f"{value:.6g}") for each, value in zip(NAMES, found.mean(0), strict=True)},
            **({"over_other": compared(found, rows[options.against])} if name != options.against else {}),
        }
        for name, found in rows.items()
    }
    print(json.dumps(results, indent=1))
    if options.json:
        options.json.write_text(json.dumps({"against": options.against, "models": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
