"""What rotated inputs cost in decoding: two engines with the same random weights, one of them with every input transformed.

    python benchmarks/rotation.py --shape x070-0.4b --threads 2 --rounds 20 --json OUT.json

All projections and LoRA factors that the default method would rotate have the transform `hadamard`, or, with --scaled,
`column-power-hadamard`. The biases before the squared ReLUs are rotated back, so that as much of the input of ffn.value is zero. Runs of
both engines take turns; a row has medians, and the median of the ratios of runs that follow one another, by the clock and by the time of
the processor.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from roofline import conditions

from rwkvquant.architectures import QUANTIZED_ROLES, architecture
from rwkvquant.bench.density import measure_density, own_texts
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.shapes import released
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import Model
from rwkvquant.runtime.weights import Weights, packed_weights
from rwkvquant.transforms import Applied
from rwkvquant.transforms.column_power_hadamard import COLUMN_POWER_HADAMARD
from rwkvquant.transforms.hadamard import HADAMARD


def transform_of(width: int, scaled: bool) -> Applied:
    exponents = np.zeros(width, np.int32)
    exponents[::97] = 1
    return COLUMN_POWER_HADAMARD.of(exponents, 0) if scaled else HADAMARD.make(width, 0)


def rotated(weights: Weights, roles: dict[str, str], scaled: bool) -> Weights:
    """The same matrices, said to be for transformed inputs, and the biases that keep the density of the squared ReLUs."""
    transforms = {
        name: transform_of(packed.shape[1], scaled)
        for name, packed in weights.matrices.items()
        if roles[name] in QUANTIZED_ROLES and not packed.codec.nonnegative_input
    }
    own, vectors = architecture(weights.arch), dict(weights.vectors)
    if own.squared_relu is not None:
        for layer in range(weights.dims.layers):
            bias, matrix = own.full_name(layer, own.squared_relu.bias), own.full_name(layer, own.squared_relu.matrix)
            vectors[bias] = transforms[matrix].undone(vectors[bias].reshape(1, -1)).reshape(-1)  # T^T b, so T x has b more
    return replace(weights, transforms=transforms, vectors=vectors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="x070-0.4b")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=24, help="of a run")
    parser.add_argument("--scaled", action="store_true")
    parser.add_argument("--density", action="store_true", help="measure how much of the input of ffn.value is zero, too")
    parser.add_argument("--file", type=Path, help="where the random model is, or is kept")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = args.file or Path(scratch) / "random.safetensors"
        if not path.exists():
            write_random_model(path, *released(args.shape), rotated=False)
        packed = open_packed(path)
        weights = packed_weights(packed)
        roles = {name: packed.entry(name).role for name in weights.matrices}
        both = {"plain": weights, "rotated": rotated(weights, roles, args.scaled)}
        models = {name: Model(each, None, packed.tokenizer, args.threads) for name, each in both.items()}
        texts = own_texts(models["plain"])
        row: dict[str, object] = {"shape": args.shape, "threads": models["plain"].threads, "rounds": args.rounds, "scaled": args.scaled}
        if args.density:
            row["density"] = {name: getattr(measure_density(each, texts), "mean", None) for name, each in both.items()}
        tokens = texts.reshape(-1)[: args.tokens].tolist()
        slots = {name: model.slots(1) for name, model in models.items()}
        own = {name: each.add() for name, each in slots.items()}
        times: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
        for _ in range(args.rounds + 1):
            for name, each in slots.items():
                wall, processor = time.perf_counter(), time.process_time()
                for token in tokens:
                    each.forward({own[name]: [token]})
                times[name].append(((time.perf_counter() - wall) / len(tokens), (time.process_time() - processor) / len(tokens)))
        for place, clock in enumerate(("wall", "processor")):
            plain, changed = ([pair[place] for pair in times[name][1:]] for name in ("plain", "rotated"))  # the first run warms up
            row[clock] = {
                "plain_ms": round(1e3 * statistics.median(plain), 3),
                "rotated_ms": round(1e3 * statistics.median(changed), 3),
                "ratio": round(statistics.median(b / a for a, b in zip(plain, changed, strict=True)), 4),
                "ratio_of_best": round(min(changed) / min(plain), 4),
            }
        print(json.dumps(row))
        if args.json:
            args.json.write_text(json.dumps({"conditions": conditions(), "rows": [row]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
