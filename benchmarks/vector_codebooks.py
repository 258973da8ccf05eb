"""How long the codebooks of element-wise vectors take, for the vectors of released shapes with random elements and importances.

    python benchmarks/vector_codebooks.py [x070-1.5b x060-14b] --json benchmarks/results/vector_codebooks.json

RWKVQuant says that optimising them takes about 15 minutes for its largest model. Here it is the step that the pipeline does for each vector
(quantizers/elementwise), on one thread: codebooks of 3 bits for 64 neighbours, by Eq. (19), and in the way of the authors' code.
Collecting the importances is not in it: they are sums over the text, which is read for the matrices anyway.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import torch

from rwkvquant.architectures import Role, architecture
from rwkvquant.bench.shapes import RELEASED
from rwkvquant.quantizers.elementwise.codebooks import vector_codebook
from rwkvquant.system import cpu_name

BITS = 3


def timed(shape: str) -> dict[str, Any]:
    arch, dims = RELEASED[shape]
    rng = np.random.default_rng(0)
    elements, found = 0, {"weighted": 0.0, "authors": 0.0}
    for _, spec, _ in architecture(arch).used(dims.layers):
        if spec.role is not Role.ELEMENTWISE:
            continue
        for _ in spec.parts:
            size = math.prod(spec.part_shape(dims))
            elements += size
            mu, importance = rng.random(size, np.float32), rng.lognormal(sigma=1, size=size).astype(np.float32)
            for reading, name in (("paper", "weighted"), ("authors", "authors")):
                before = process_time()
                vector_codebook(mu, importance, BITS, reading)
                found[name] += process_time() - before
    return {"elements": elements, "seconds": {name: round(seconds, 2) for name, seconds in found.items()}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["x070-1.5b", "x060-14b"], metavar="shape")
    parser.add_argument("--json", help="write the numbers and conditions here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shapes = {shape: timed(shape) for shape in args.shapes}
    print("| | elements | by Eq. (19), s | as the authors, s |\n|---|---|---|---|")
    for shape, each in shapes.items():
        print(f"| {shape} | {each['elements']} | {each['seconds']['weighted']} | {each['seconds']['authors']} |")
    if args.json:
        Path(args.json).write_text(json.dumps({"cpu": cpu_name(), "bits": BITS, "shapes": shapes}, indent=1) + "\n")


if __name__ == "__main__":
    main()
