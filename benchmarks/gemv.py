"""Matrix-vector products from memory, one thread, beside what one core can read: python benchmarks/gemv.py [--json]

Every layout on every instruction set is first checked, against its NumPy definition (the same bits) and against float64; only
then it is timed. A round runs the read loop and every kernel once, one after another, so that both meet the same noise.

    GB/s     stored bytes of the matrix (codes, scales, zeros, codebooks) over processor time: best, and median over rounds
    share    of the read bandwidth: best over best, and the median over rounds of the ratio within a round
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions, memory_of, read_bandwidth, seconds

from rwkvquant import _native
from rwkvquant.kernels import gemv_codebook as codebook_definition
from rwkvquant.kernels import gemv_uniform as uniform_definition
from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import quantize_activations

CHECKED_ROWS = 250  # not a multiple of 16: the last block is ragged
PLAIN_BYTES = 96 << 20  # plain C++ is bound by arithmetic; a few times the last-level cache is enough

Arrays = dict[str, NDArray[Any] | None]


@dataclass(frozen=True)
class Case:
    """One layout: its matrix in packed arrays, cut from `memory`, whose random bytes are codes, zeros and scales as good as any."""

    name: str
    bits: float  # stored bits a weight without row_scale
    group_size: int = 0  # 0: a codebook
    symmetric: bool = False
    wide_scales: bool = False

    def rows_in(self, count: int, cols: int) -> int:
        return int(count * 8 / self.bits) // cols // 16 * 16

    def arrays(self, memory: NDArray[np.uint8], rows: int, cols: int) -> Arrays:
        """The packed arrays of a (rows, cols) matrix. Float16 values are small and finite."""
        blocks, groups = -(-rows // 16), -(-cols // (self.group_size or 64))
        taken = 0

        def take(count: int) -> NDArray[np.uint8]:
            nonlocal taken
            start, taken = taken, taken + -(-count // 64) * 64
            return memory[start : start + count]

        halves = (np.random.default_rng(1).random(blocks * 16) + 0.5).astype(np.float16)
        if self.group_size == 0:
            codes = take(tiles.packed_bytes(rows, cols, 3, 32))
            return {"codes": codes, "codebooks": take(tiles.codebook_bytes(rows, cols)), "row_scale": halves}
        codes = take(tiles.packed_bytes(rows, cols, 3, 64))
        if self.wide_scales:
            scales, row_scale = take(blocks * groups * 32).view(np.float16), None
        else:
            scales, row_scale = take(blocks * groups * 16), halves
        zeros = None if self.symmetric else take(blocks * groups * 6)
        return {"codes": codes, "scales": scales, "row_scale": row_scale, "zeros": zeros}

    def run(self, body: Any, arrays: Arrays, x: tuple[Any, Any], rows: int, cols: int, out: NDArray[np.float32]) -> None:
        if self.group_size == 0:
            body.gemv_codebook(*arrays.values(), *x, rows, cols, out)
        else:
            body.gemv_uniform(*arrays.values(), *x, rows, cols, self.group_size, out)

    @property
    def definition(self) -> Any:
        return codebook_definition if self.group_size == 0 else uniform_definition


CASES = (
    Case("uniform3.t16x64 g64 symmetric", 3 + 8 / 64, 64, symmetric=True),
    Case("uniform3.t16x64 g64 asymmetric", 3 + 11 / 64, 64),
    Case("uniform3.t16x64 g128 asymmetric", 3 + 11 / 128, 128),
    Case("uniform3.t16x64 g64 asymmetric, float16 scales", 3 + 19 / 64, 64, wide_scales=True),
    Case("codebook3.t16x32", 4),
)


def weights64(case: Case, arrays: Arrays, rows: int, cols: int) -> NDArray[np.float64]:
    """The decoded matrix in float64, from the definition of the arrays."""
    if case.group_size == 0:
        tables = tiles.unpack_codebooks(arrays["codebooks"], rows, cols)
        code = tiles.unpack_tiles(arrays["codes"], rows, cols, 3, 32)
        weight = tables[np.arange(rows)[:, None] // 2, np.arange(cols)[None] // 32, code].astype(np.float64) - 64
    else:
        groups = -(-cols // case.group_size)
        group = np.arange(cols) // case.group_size
        zeros = np.full((rows, groups), 4) if arrays["zeros"] is None else tiles.unpack_zeros(arrays["zeros"], rows, groups, 3)
        scales = tiles.unpack_scales(arrays["scales"], rows, groups).astype(np.float64)
        code = tiles.unpack_tiles(arrays["codes"], rows, cols, 3, 64)
        weight = scales[:, group] * (code.astype(np.float64) - zeros[:, group])
    row_scale = arrays["row_scale"]
    return weight if row_scale is None else weight * row_scale[:rows, None].astype(np.float64)


def check(case: Case, memory: NDArray[np.uint8], cols: int) -> None:
    """Every body gives the definition's bits, and those lie within float32 rounding of float64. Exits with 1 if not."""
    rows = CHECKED_ROWS
    x = quantize_activations(np.random.default_rng(2).standard_normal(cols).astype(np.float32))
    arrays = case.arrays(memory, rows, cols)
    want = np.empty(rows, np.float32)
    case.run(case.definition, arrays, x, rows, cols, want)
    x64 = x[0][:cols] * x[1].astype(np.float64).repeat(64)[:cols]
    W = weights64(case, arrays, rows, cols)
    error = np.abs(want - W @ x64) / (np.abs(W) @ np.abs(x64))
    if not error.max() < 2**-24 * (cols / 64 + 3):  # each of the sums rounds once, and each product
        sys.exit(f"{case.name}: the definition is {error.max():.1e} from float64")
    for isa in _native.available_isas():
        _native.set_isa(isa)
        got = np.full(rows, np.nan, np.float32)
        case.run(_native, arrays, x, rows, cols, got)
        if not np.array_equal(got, want):
            sys.exit(f"{case.name}: {isa} differs from the definition in {np.count_nonzero(got != want)} of {rows} rows")


def prepare(case: Case, isa: str, memory: NDArray[np.uint8], cols: int) -> tuple[int, Callable[[], None]]:
    """The bytes of the matrix, and one product of it from memory."""
    count = min(len(memory), PLAIN_BYTES) if isa == "plain" else len(memory)
    rows = case.rows_in(count - 4096, cols)
    arrays = case.arrays(memory, rows, cols)
    x = quantize_activations(np.random.default_rng(2).standard_normal(cols).astype(np.float32))
    out = np.empty(rows, np.float32)
    stored = sum(array.nbytes for array in arrays.values() if array is not None)

    def product() -> None:
        _native.set_isa(isa)
        case.run(_native, arrays, x, rows, cols, out)

    return stored, product


def measure(memory: NDArray[np.uint8], cols: int, rounds: int, isas: list[str]) -> tuple[float, list[dict[str, Any]]]:
    """The best read bandwidth, and a row for each layout and instruction set."""
    cases = [(case, isa, *prepare(case, isa, memory, cols)) for isa in isas for case in CASES]
    speeds: list[list[float]] = [[] for _ in cases]
    reads: list[list[float]] = [[] for _ in cases]
    best_isa = _native.available_isas()[-1]
    for _ in range(rounds):
        for at, (_case, isa, stored, product) in enumerate(cases):
            if isa != "plain" or not speeds[at]:  # one round of it is enough
                _native.set_isa(best_isa)
                reads[at].append(read_bandwidth(memory))
                speeds[at].append(stored / seconds(product))
    roofline = max(max(each) for each in reads)
    rows = []
    for (case, isa, stored, _product), speed, read in zip(cases, speeds, reads, strict=True):
        rows.append(
            {
                "layout": case.name,
                "isa": isa,
                "bits_per_weight": round(case.bits, 3),
                "bytes": stored,
                "gb_s_best": max(speed) / 1e9,
                "gb_s_median": statistics.median(speed) / 1e9,
                "share_best": max(speed) / roofline,
                "share_median": statistics.median(s / r for s, r in zip(speed, read, strict=True)),
            }
        )
    return roofline, rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gib", type=float, default=1.0, help="size of each matrix (default 1 GiB)")
    parser.add_argument("--cols", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--isa", action="append", choices=_native.available_isas(), help="only this one; may be repeated")
    parser.add_argument("--pages", choices=("4k", "huge"), default="4k", help="a mapped file has 4 KiB pages (default)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    memory = memory_of(int(options.gib * (1 << 30)) // 256 * 256, options.pages)
    memory &= 0x3F  # centroids fit 7 bits, and float16 scales are finite; codes and zeros keep their low planes random
    for case in CASES:
        check(case, memory, options.cols)
    roofline, rows = measure(memory, options.cols, options.rounds, options.isa or _native.available_isas())
    report = {
        "conditions": conditions() | {"gib": options.gib, "cols": options.cols, "rounds": options.rounds, "pages": options.pages},
        "read_gb_s": roofline / 1e9,
        "rows": rows,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['conditions']}\none core reads {roofline / 1e9:.1f} GB/s\n")
    print(f"{'layout':<48}{'isa':<8}{'bits':>6}{'GB/s best':>11}{'median':>8}{'share best':>12}{'median':>8}")
    for row in rows:
        speed = f"{row['gb_s_best']:>11.2f}{row['gb_s_median']:>8.2f}{row['share_best']:>12.1%}{row['share_median']:>8.1%}"
        print(f"{row['layout']:<48}{row['isa']:<8}{row['bits_per_weight']:>6.3f}{speed}")


if __name__ == "__main__":
    main()
