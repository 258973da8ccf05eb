"""Does VQ buy quality with latency? Tokens per second of random models, with SQ for a share of the weights and VQ for the rest.

    python benchmarks/share_speed.py --shape x070-0.4b --work-dir DIR --json OUT.json

With `--make` the files are only written to DIR; files that are there are used.

Every file has the same stored bits. Which matrices get SQ is drawn at random, as speed depends on how many weights they have, not on which
they are; widths and sizes of groups and tables are chosen by the budget, as in `rwkvquant bench --random`.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import QUANTIZED_ROLES, TensorSpec
from rwkvquant.bench.layouts import CODEBOOK_ERRORS, GRID_ERRORS, SPREAD, codebook
from rwkvquant.bench.measure import measure
from rwkvquant.bench.random_model import default_side, planned, write_model
from rwkvquant.bench.shapes import released
from rwkvquant.codecs import GridConfig, Packing
from rwkvquant.lab.conditions import conditions
from rwkvquant.selection.policy import fit_budget
from rwkvquant.selection.share import by_share

SHARES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)
SHOWN = ("decode_tok_s", "decode_tok_s_rounds", "prefill_tok_s", "gb_s", "roofline_gb_s", "bytes_per_token", "file_bytes", "threads")


def chosen(shapes: dict[str, tuple[int, int]], share: float, bits: float) -> dict[str, Packing]:
    """A packing for each matrix of the shapes (out, in)."""
    random = np.random.default_rng(0)
    counts = {name: rows * cols for name, (rows, cols) in shapes.items()}
    kinds = by_share({name: (float(random.random()),) for name in shapes}, counts, share)
    candidates = {}
    for name, shape in shapes.items():
        loss = counts[name] * math.exp(SPREAD * random.standard_normal())
        if kinds[name] == "uniform":
            packings = [(GridConfig(*grid).packing(shape), error) for grid, error in GRID_ERRORS.items()]
        else:
            packings = [(codebook(shape, *table), error) for table, error in CODEBOOK_ERRORS.items()]
        candidates[name] = [(packing.stored_bytes, loss * error, packing) for packing, error in packings]
    return fit_budget(candidates, counts, bits, explicit=True)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="x070-0.4b")
    parser.add_argument("--bits", type=float, default=3.275)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--make", action="store_true")
    parser.add_argument("--json")
    args = parser.parse_args()
    arch, dims = released(args.shape)
    shapes = {name: p.shape for name, spec, p in planned(arch, dims) if spec.role in QUANTIZED_ROLES}
    rows: list[dict[str, Any]] = []
    for share in SHARES:
        found = chosen(shapes, share, args.bits)  # type: ignore[arg-type]

        def packing(name: str, spec: TensorSpec, shape: tuple[int, ...], found: dict[str, Packing] = found) -> Packing:
            return found.get(name) or default_side(spec, shape)

        path = Path(args.work_dir) / f"{args.shape}-{share:g}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            write_model(path, arch, dims, packing)
        if args.make:
            continue
        result = measure(path, threads=args.threads, prefill_tokens=256, rounds=args.rounds)
        stored = 8 * sum(p.stored_bytes for p in found.values()) / sum(math.prod(p.shape) for p in found.values())
        rows.append({"sq_weights": share, "stored_bits": stored, **{name: result[name] for name in SHOWN}})
        print(rows[-1], flush=True)
    if args.json:
        where = {name: value for name, value in conditions().items() if name != "system"}
        Path(args.json).write_text(json.dumps({"shape": args.shape, "rows": rows, "conditions": where}, indent=1) + "\n")


if __name__ == "__main__":
    main()
