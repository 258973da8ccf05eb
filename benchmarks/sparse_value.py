"""Products whose input is mostly zero, from memory: `python benchmarks/sparse_value.py [--json FILE]`.

The matrices are those of `ffn.value` in released shapes, all layers, so that they do not stay in a cache. For each share of the input that
is not zero, and for one and two threads, a round measures these one after another:

    sparse     3 bits stored by columns (columnwise3), only the columns that are not zero
    dense      the same matrices, all columns, in the way that many vectors take
    sections   columns of 2, 3, 4 and 6 bits, 3 on average (codec sections), only the columns that are not zero; the widths are those of a
               matrix of rwkv7-8m
    uniform3   a grid of 3 bits in groups of 64, stored by rows: the whole matrix is read
    read       reading all bytes of the matrices stored by columns, and doing nothing with them

The same bits as the NumPy definition are checked first, for every share and both ways. Ratios are those within a round; the medians over
rounds are shown. Each product is a call from Python, about 3 microseconds. With two threads, each has half of the rows (whole chunks of
512), and both prepare the input.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions

from rwkvquant import _native
from rwkvquant.bench.shapes import released
from rwkvquant.codecs import ColumnwiseConfig, GridConfig, PackedTensor, Packing

SHAPES = ("x070-1.5b", "x070-0.4b", "x070-2.9b")
DENSITIES = (0.05, 0.125, 0.2, 0.3, 0.5, 1.0)
CHUNK_ROWS = 512
WAYS = {"sparse": 1, "dense": 2}
MIX = {2: 281, 3: 476, 4: 260, 6: 7}  # of 1024 columns
AHEAD = 8192  # bytes that the read loop prefetches

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Input:
    """One vector (cols,), and the same in int8 as the grids read it."""

    x: Floats
    q: NDArray[np.int8]
    scale: Floats
    minus_sum: NDArray[np.int32]

    @classmethod
    def random(cls, cols: int, density: float) -> Input:
        rng = np.random.default_rng([cols, int(1000 * density)])
        x = np.where(rng.random(cols) < density, np.square(rng.standard_normal(cols)), 0).astype(np.float32)
        q, scale, minus_sum = np.empty(cols, np.int8), np.empty(cols // 64, np.float32), np.empty(cols // 32, np.int32)
        _native.quantize_activations(x, 1, cols, q, scale, minus_sum)
        return cls(x, q, scale, minus_sum)


def random_matrices(packing: Packing, count: int) -> list[PackedTensor]:
    """Their codes are in one array: so all kinds have pages of the same size."""
    rng = np.random.default_rng(0)
    matrices = [PackedTensor(packing, packing.codec.random_arrays(rng, packing, 0.02)) for _ in range(count)]
    for packed, codes in zip(matrices, np.split(np.concatenate([packed.arrays["codes"] for packed in matrices]), count), strict=True):
        packed.arrays["codes"] = codes  # type: ignore[index]
    return matrices


def sections(shape: tuple[int, int]) -> Packing:
    counts = {width: shape[1] * count // 1024 for width, count in MIX.items()}
    counts[3] += shape[1] - sum(counts.values())
    return Packing("sections.r512", shape, {f"cols{width}": count for width, count in counts.items()})


def native(packed: PackedTensor, way: int = 0) -> Any:
    form = packed.native_form()
    assert form is not None
    arguments = form.arguments(packed)
    return _native.Matrix(**{**arguments, "numbers": {**arguments["numbers"], "way": way}})


def check() -> None:
    """Exits with 1 if a body differs from the definition."""
    shape = 700, 2048
    for packing in (ColumnwiseConfig(3).packing(shape), sections(shape)):
        (packed,) = random_matrices(packing, 1)
        for density in DENSITIES:
            given = Input.random(2048, density)
            want = packed.product(given.x[None])[0]
            for isa, (way, number) in itertools.product(_native.available_isas(), WAYS.items()):
                _native.set_isa(isa)
                out = np.empty(700, np.float32)
                _native.product(native(packed, number), given.q, given.scale, given.minus_sum, given.x, 1, out, 700, 0, 700)
                if not np.array_equal(out, want):
                    differ = f"{np.count_nonzero(out != want)} of 700 values differ from the definition"
                    sys.exit(f"{packing.layout}, {isa}, {way}, {density}: {differ}")


def multiply(matrices: list[Any], given: Input, out: Floats, begin: int, end: int) -> None:
    for matrix in matrices:
        _native.product(matrix, given.q, given.scale, given.minus_sum, given.x, 1, out, len(out), begin, end)


def together(parts: list[Callable[[], None]]) -> float:
    """Seconds until all are done, each in its own thread; the first is the caller's."""
    start = threading.Barrier(len(parts))

    def run(part: Callable[[], None]) -> None:
        start.wait()
        part()

    others = [threading.Thread(target=run, args=(part,)) for part in parts[1:]]
    for other in others:
        other.start()
    start.wait()
    began = time.perf_counter()
    parts[0]()
    for other in others:
        other.join()
    return time.perf_counter() - began


def jobs_of(rows: int, kinds: dict[str, list[Any]], memory: NDArray[np.uint8], given: Input, threads: int) -> dict[str, list[Any]]:
    """name -> what each thread does."""
    out = np.empty(rows, np.float32)
    middle = [rows] if threads == 1 else [-(-rows // CHUNK_ROWS) // 2 * CHUNK_ROWS, rows]
    ranges = list(zip([0, *middle], middle, strict=False))
    half = len(memory) // threads // 256 * 256
    jobs: dict[str, list[Any]] = {
        name: [lambda m=matrices, b=begin, e=end: multiply(m, given, out, b, e) for begin, end in ranges]
        for name, matrices in kinds.items()
    }
    jobs["read"] = [lambda part=memory[half * i : half * (i + 1)]: _native.read_memory(part, AHEAD) for i in range(threads)]
    return jobs


def measure(shape: str, rounds: int) -> list[dict[str, Any]]:
    _, dims = released(shape)
    rows, cols, count = dims.width, dims.hidden, dims.layers
    by_columns = random_matrices(ColumnwiseConfig(3).packing((rows, cols)), count)
    memory = by_columns[0].arrays["codes"].base
    assert isinstance(memory, np.ndarray)
    kinds = {way: [native(packed, number) for packed in by_columns] for way, number in WAYS.items()}
    kinds["sections"] = [native(packed, WAYS["sparse"]) for packed in random_matrices(sections((rows, cols)), count)]
    kinds["uniform3"] = [native(packed) for packed in random_matrices(GridConfig(3, 64).packing((rows, cols)), count)]
    result = []
    for threads in (1, 2):
        for density in DENSITIES:
            jobs = jobs_of(rows, kinds, memory, Input.random(cols, density), threads)
            times = [{name: together(parts) for name, parts in jobs.items()} for _ in range(rounds)]
            row: dict[str, Any] = {"shape": shape, "matrices": count, "rows": rows, "cols": cols, "threads": threads, "density": density}
            row |= {f"{name}_ms": round(1e3 * statistics.median(each[name] for each in times), 4) for name in jobs}
            row |= {f"{name}_over_sparse": round(statistics.median(t[name] / t["sparse"] for t in times), 3) for name in jobs}
            row["sparse_gb_s"] = round(density * len(memory) / row["sparse_ms"] / 1e6, 2)
            row["read_gb_s"] = round(len(memory) / row["read_ms"] / 1e6, 2)
            result.append(row)
            print(
                f"{shape:10} {count} x {rows} x {cols}, {threads} threads, {100 * density:5.1f} %: sparse {row['sparse_ms']:7.2f} ms; "
                + ", ".join(f"{name} {row[f'{name}_ms']:.2f} ms ({row[f'{name}_over_sparse']:.2f} x)" for name in jobs if name != "sparse"),
                flush=True,
            )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--shape", action="append", choices=SHAPES, help="only this one; may be repeated")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    check()
    _native.set_isa(_native.available_isas()[-1])
    before = conditions()
    rows = [row for shape in given.shape or SHAPES for row in measure(shape, given.rounds)]
    if given.json:
        given.json.write_text(
            json.dumps({"conditions": before | {"threads": [1, 2], "rounds": given.rounds}, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
