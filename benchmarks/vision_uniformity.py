"""Are the weights of models for images more or less uniform than those of language models? The paper's proxies of every projection.

    python benchmarks/vision_uniformity.py CHECKPOINT [CHECKPOINT ...] --json OUT.json

P_c grows with the number of weights, so each projection is compared with Gaussian weights of its size, rounded to the checkpoint's type:
`above_gaussian` is P_c minus theirs; below 0 means more uniform. `algorithm1`: how many projections its thresholds make SQ, by
construction a tenth. `kurtosis`: excess, 0 for a Gaussian, -1.2 for uniform weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.selection.algorithm1 import algorithm1
from rwkvquant.selection.proxy import READINGS, proxies

Row = dict[str, Any]


def rows_of(path: str) -> list[Row]:
    """Of each projection, by its name."""
    checkpoint = open_checkpoint(path)
    rows = []
    for matrix in checkpoint.logical_matrices():
        if matrix.spec.role != Role.PROJECTION:
            continue
        W, dtype = checkpoint.read_matrix(matrix.name), checkpoint.tensors[matrix.source].dtype
        gaussian = np.random.default_rng(0).normal(0, W.std(), W.size).astype(np.float32)
        row: Row = {"tensor": matrix.name, "weights": W.size, "kurtosis": round(kurtosis(W), 4)}
        for reading in READINGS:
            own, other = (proxies(values, reading, dtype) for values in (W, stored(gaussian, dtype)))
            numbers = {"P_c": own.coarse, "P_f": own.fine(), "above_gaussian": own.coarse - other.coarse}
            row[reading] = {key: float(f"{value:.6g}") for key, value in numbers.items()}
        rows.append(row)
    return rows


def stored(values: np.ndarray, dtype: str) -> np.ndarray:
    """Rounded to the type of the checkpoint."""
    if dtype == "bfloat16":
        bits = values.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
    return values.astype(np.float16).astype(np.float32) if dtype == "float16" else values


def kurtosis(W: np.ndarray) -> float:
    z = (W.ravel() - W.mean(dtype=np.float64)) / W.std(dtype=np.float64)
    return float((z**4).mean() - 3)


def summary(rows: list[Row]) -> Row:
    result: Row = {"projections": len(rows), "kurtosis": float(np.mean([row["kurtosis"] for row in rows]))}
    for reading in READINGS:
        values = {key: [row[reading][key] for row in rows] for key in ("P_c", "P_f", "above_gaussian")}
        quartiles = {key: np.quantile(of, [0.25, 0.5, 0.75]).tolist() for key, of in values.items()}
        kinds, _ = algorithm1({row["tensor"]: (row[reading]["P_c"], row[reading]["P_f"]) for row in rows})
        result[reading] = {"quartiles": quartiles, "algorithm1": sum(kind == "uniform" for kind in kinds.values())}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--json")
    args = parser.parse_args()
    results = {}
    for path in args.checkpoints:
        rows = rows_of(path)
        results[Path(path).stem] = {"summary": summary(rows), "tensors": rows}
        print(Path(path).stem, json.dumps(results[Path(path).stem]["summary"]), flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
