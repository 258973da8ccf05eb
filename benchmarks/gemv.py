"""Matrix products from memory, one thread, compared with what one core can read: python benchmarks/gemv.py [--json]

Every layout on every instruction set is checked first, against its NumPy definition (the same bits) and against float64. Only then is it
timed. A round runs the read loop and every kernel once, one after another, so that all of them meet the same noise.

    GB/s     stored bytes of the matrix (codes, scales, zeros, codebooks) over processor time: best, and median over rounds
    share    of the read bandwidth: best over best, and the median over rounds of the ratio within a round
    x N      --vectors N multiplies N vectors at once: GB/s as before, and Gop/s, one multiplication and one addition a weight and vector
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions, memory_of, read_bandwidth, seconds
from rwkvquant.formats.layout import unpack
from rwkvquant.formats.layout_sizes import TensorParams, expected_arrays

from rwkvquant import _native
from rwkvquant.kernels import dispatch
from rwkvquant.kernels import product as definition
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.product import Matrix

CHECKED_ROWS = 250  # not a multiple of 16: the last block is not full
PLAIN_BYTES = 64 << 20  # arithmetic limits plain C++; a few times the last-level cache is enough


@dataclass(frozen=True)
class Case:
    """One layout. Its matrices are cut from `memory`, whose random bytes serve as codes, zeros, scales and centroids."""

    name: str
    layout: str
    params: TensorParams = field(default_factory=lambda: TensorParams(()))

    def matrix(self, memory: NDArray[np.uint8], rows: int, cols: int) -> Matrix:
        """The packed arrays of a (rows, cols) matrix. Float16 values are small and finite."""
        params = replace(self.params, shape=(rows, cols))
        taken, arrays = 0, {}
        for suffix, (dtype, count) in expected_arrays(self.layout, params).items():
            arrays[suffix] = memory[taken : taken + count * dtype.itemsize].view(dtype)
            taken += count * dtype.itemsize
        if "row_scale" in arrays:
            arrays["row_scale"] = (np.random.default_rng(1).random(len(arrays["row_scale"])) + 0.5).astype(np.float16)
        codec, shape = self.layout.split(".")
        name = codec.rstrip("12345678")
        bits = int(codec[len(name) :] or shape[1:])
        tile_cols = 64 if shape == "t16x64" else 32
        fields = {key: getattr(params, key) for key in ("group_size", "symmetric", "scale_bits", "group_rows", "rank", "shift")}
        return Matrix(name, arrays, rows, cols, bits, tile_cols, **fields)

    def bytes_of(self, rows: int, cols: int) -> int:
        sizes = expected_arrays(self.layout, replace(self.params, shape=(rows, cols)))
        return sum(dtype.itemsize * count for dtype, count in sizes.values())

    def rows_in(self, count: int, cols: int) -> int:
        """Rows of a matrix of nearly `count` bytes."""
        return count // self.bytes_of(1600, cols) * 1600


def uniform(bits: int, group_size: int, symmetric: bool = False, scale_bits: int = 8, tile_cols: int = 64) -> Case:
    params = TensorParams((), group_size, symmetric, scale_bits)
    group = "row" if group_size == 1 << 20 else group_size
    kind = ("symmetric" if symmetric else "asymmetric") + (" float16 scales" if scale_bits == 16 else "")
    return Case(f"uniform{bits}.t16x{tile_cols} g{group} {kind}", f"uniform{bits}.t16x{tile_cols}", params)


def codebook(bits: int, group_rows: int, rank: int = 0) -> Case:
    kind = f" rank {rank}" if rank else ""
    return Case(
        f"codebook{bits}.t16x32 rows {group_rows}{kind}",
        f"codebook{bits}.t16x32",
        TensorParams((), group_rows=group_rows, rank=rank, shift=6 if rank else 0),
    )


CASES = (
    *(uniform(bits, 64) for bits in range(1, 9)),
    uniform(3, 64, symmetric=True),
    uniform(3, 64, scale_bits=16),
    *(uniform(bits, group) for bits in (2, 3, 4, 6) for group in (128, 1 << 20)),
    *(uniform(bits, 32, tile_cols=32) for bits in (2, 3, 4)),
    uniform(3, 64, tile_cols=32),
    *(codebook(bits, rows) for bits, rows in ((2, 2), (2, 4), (3, 2), (3, 4), (3, 8), (3, 16), (4, 4), (4, 8))),
    *(codebook(3, rows, rank) for rows, rank in ((2, 2), (2, 4), (4, 4), (2, 8))),
    *(Case(f"pairs{bits}.t16x32", f"pairs{bits}.t16x32", TensorParams((), group_rows=1600)) for bits in (4, 5, 6, 7, 8)),
    Case("dense.f16", "dense.f16"),
    Case("dense.f32", "dense.f32"),
)


def vectors_of(count: int, cols: int) -> NDArray[np.float32]:
    return np.random.default_rng(2).standard_normal((count, cols)).astype(np.float32)


def check(case: Case, memory: NDArray[np.uint8], cols: int) -> None:
    """Every body gives the definition's bits, and those lie within float32 rounding of float64. Exits with 1 if not."""
    matrix, x = case.matrix(memory, CHECKED_ROWS, cols), vectors_of(3, cols)
    want = definition.product(matrix, x)
    W = unpack(case.layout, replace(case.params, shape=(CHECKED_ROWS, cols)), matrix.arrays).decode().astype(np.float64)
    for vector, got in zip(x, want, strict=True):
        x64 = vector.astype(np.float64)
        if matrix.codec != "dense":
            xq, xscale = quantize_activations(vector)
            x64 = xq[:cols] * xscale.astype(np.float64).repeat(64)[:cols]
        error, size = np.abs(got - W @ x64), np.abs(W) @ np.abs(x64)
        if not (error <= 2**-24 * (cols / 16 + 6) * size).all():  # each of the sums rounds once, and each product
            sys.exit(f"{case.name}: the definition is {error.max():.1e} from float64")
    for isa in _native.available_isas():
        _native.set_isa(isa)
        for count in (1, 3):
            got = dispatch.native_product(_native, matrix, x[:count])
            if not np.array_equal(got, want[:count]):
                sys.exit(f"{case.name}: {isa} differs from the definition in {np.count_nonzero(got != want[:count])} values")


def prepare(case: Case, isa: str, memory: NDArray[np.uint8], cols: int, count: int) -> tuple[int, int, Callable[[], None]]:
    """The bytes and the weights of the matrix, and one product of it with `count` vectors, from memory."""
    rows = case.rows_in(min(len(memory), PLAIN_BYTES) if isa == "plain" else len(memory), cols)
    matrix = case.matrix(memory, rows, cols)
    held = dispatch.held(_native, matrix)
    groups = -(-cols // 64)
    x = np.zeros((count, groups * 64), np.float32)
    x[:, :cols] = vectors_of(count, cols)
    flat = x.reshape(-1)
    q, scale, minus_sum = np.empty(flat.size, np.int8), np.empty(count * groups, np.float32), np.empty(2 * count * groups, np.int32)
    _native.quantize_activations(flat, count, cols, q, scale, minus_sum)
    out = np.empty(count * rows, np.float32)

    def product() -> None:
        _native.set_isa(isa)
        _native.product(held, q, scale, minus_sum, flat, count, out, rows, 0, rows)

    return sum(array.nbytes for array in matrix.arrays.values()), rows * cols, product


def measure(cases: list[Case], memory: NDArray[np.uint8], cols: int, rounds: int, isas: list[str], count: int) -> tuple[float, list[Any]]:
    """The best read bandwidth, and a row for each layout and instruction set."""
    jobs = [(case, isa, *prepare(case, isa, memory, cols, count)) for isa in isas for case in cases]
    speeds: list[list[float]] = [[] for _ in jobs]
    reads: list[list[float]] = [[] for _ in jobs]
    best_isa = _native.available_isas()[-1]
    for _ in range(rounds):
        for at, (_case, isa, stored, _weights, product) in enumerate(jobs):
            if isa != "plain" or not speeds[at]:  # one round of it is enough
                _native.set_isa(best_isa)
                reads[at].append(read_bandwidth(memory))
                speeds[at].append(stored / seconds(product))
    roofline = max(max(each) for each in reads)
    rows = []
    for (case, isa, stored, weights, _product), speed, read in zip(jobs, speeds, reads, strict=True):
        rows.append(
            {
                "layout": case.name,
                "isa": isa,
                "vectors": count,
                "bits_per_weight": round(8 * stored / weights, 3),
                "bytes": stored,
                "gb_s_best": max(speed) / 1e9,
                "gb_s_median": statistics.median(speed) / 1e9,
                "gop_s_best": 2 * count * weights * max(speed) / stored / 1e9,
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
    parser.add_argument("--vectors", type=int, action="append", help="multiplied at once (default 1); may be repeated")
    parser.add_argument("--only", default="", help="only layouts whose name contains this")
    parser.add_argument("--isa", action="append", choices=_native.available_isas(), help="only this instruction set; may be repeated")
    parser.add_argument("--pages", choices=("4k", "huge"), default="4k", help="a mapped file has 4 KiB pages (default)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    memory = memory_of(int(options.gib * (1 << 30)) // 256 * 256, options.pages)
    memory &= 0x3F  # centroids fit 7 bits, and float16 scales are finite; codes and zeros keep their low planes random
    cases = [case for case in CASES if options.only in case.name]
    for case in cases:
        check(case, memory, options.cols)
    rows: list[dict[str, Any]] = []
    roofline = 0.0
    for count in options.vectors or [1]:
        isas = options.isa or _native.available_isas()
        best, more = measure(cases, memory, options.cols, options.rounds, isas, count)
        roofline, rows = max(roofline, best), rows + more
    report = {
        "conditions": conditions() | {"gib": options.gib, "cols": options.cols, "rounds": options.rounds, "pages": options.pages},
        "read_gb_s": roofline / 1e9,
        "rows": rows,
    }
    if options.json:
        print(json.dumps(report, indent=1))
        return
    print(f"{report['conditions']}\none core reads {roofline / 1e9:.1f} GB/s\n")
    print(f"{'layout':<48}{'isa':<8}{'x':>4}{'bits':>7}{'GB/s best':>11}{'median':>8}{'share best':>12}{'median':>8}{'Gop/s':>8}")
    for row in rows:
        speed = f"{row['gb_s_best']:>11.2f}{row['gb_s_median']:>8.2f}{row['share_best']:>12.1%}{row['share_median']:>8.1%}"
        name = f"{row['layout']:<48}{row['isa']:<8}{row['vectors']:>4}{row['bits_per_weight']:>7.3f}"
        print(f"{name}{speed}{row['gop_s_best']:>8.0f}")


if __name__ == "__main__":
    main()
