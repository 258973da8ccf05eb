"""Matrix products from memory, one thread, compared with what one core can read: python benchmarks/gemv.py [--json]

Every layout on every instruction set is checked first, against its NumPy definition (the same bits) and against float64. Only then is it
timed. A round runs the read loop and every kernel once, one after another, so that all of them meet the same noise. Matrices stored by
columns are in sparse_value.py.

    GB/s     stored bytes of the matrix (codes, scales, zeros, codebooks) over processor time: best, and median over rounds
    share    of the read bandwidth: best over best, and the median over rounds of the ratio within a round
    x N      --vectors N multiplies N vectors at once: GB/s as before, and Gop/s, one multiplication and one addition a weight and vector

With --mib 1 the matrices stay in the cache, and GB/s shows the arithmetic.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions, memory_of, read_bandwidth, seconds

from rwkvquant import _native
from rwkvquant.bench.layouts import codebook
from rwkvquant.codecs import CodebookConfig, DenseConfig, GridConfig, PackedTensor, Packing, PairConfig
from rwkvquant.kernels.activations import quantize_activations

CHECKED_ROWS = 250  # not a multiple of 16: the last block is not full
UNIT = 1600  # rows of a timed matrix: groups of 16 to 64 rows are whole
PLAIN_BYTES = 64 << 20  # arithmetic limits plain C++; a few times the last-level cache is enough
READ_BYTES = 256 << 20
LEAST_BYTES = 16 << 20  # of one timing: a smaller matrix is multiplied several times

Shape = tuple[int, int]
Maker = Callable[[Shape], Packing]


def grid(bits: int, group_size: int, **other: Any) -> tuple[str, Maker]:
    kind = ("symmetric" if other.get("symmetric") else "asymmetric") + (" float16 scales" if other.get("scale_bits") == 16 else "")
    return f"uniform{bits} g{group_size} {kind}", GridConfig(bits, group_size, **other).packing


def table(bits: int, rows: int, rank: int = 0) -> tuple[str, Maker]:
    name = f"codebook{bits} rows {rows}" + (f" rank {rank}" if rank else "")
    return name, (lambda shape: codebook(shape, bits, rows, rank)) if rank else CodebookConfig(bits, rows).packing


CASES: dict[str, Maker] = dict(
    (
        *(grid(bits, 64) for bits in range(1, 9)),
        grid(3, 64, symmetric=True),
        grid(3, 64, scale_bits=16),
        *(grid(bits, group) for group in (128, 32) for bits in (2, 3, 4, 6)),
        *(table(bits, rows) for bits, rows in ((2, 2), (2, 4), (3, 2), (3, 4), (3, 8), (3, 16), (4, 4), (4, 8))),
        *(table(3, rows, rank) for rows, rank in ((2, 2), (2, 4), (4, 4), (2, 8))),
        *((f"pairs{bits}", PairConfig(bits, UNIT).packing) for bits in (4, 5, 6, 7, 8)),
        *((f"dense {bits}", DenseConfig(bits).packing) for bits in (16, 32)),
    )
)


def random_matrix(make: Maker, shape: Shape) -> PackedTensor:
    packing = make(shape)
    return PackedTensor(packing, packing.codec.random_arrays(np.random.default_rng(0), packing, 0.02))


def native(packed: PackedTensor) -> Any:
    form = packed.native_form()
    assert form is not None
    return _native.Matrix(**form.arguments(packed))


def inputs(count: int, cols: int) -> tuple[NDArray[np.float32], tuple[Any, ...]]:
    """`count` vectors, and what the native product takes: rounded, with scales and sums, and as they are."""
    x = np.random.default_rng(2).standard_normal((count, cols)).astype(np.float32)
    padded = np.zeros((count, -(-cols // 64) * 64), np.float32)
    padded[:, :cols] = x
    flat, groups = padded.reshape(-1), padded.shape[1] // 64
    q, scale, minus_sum = np.empty(flat.size, np.int8), np.empty(count * groups, np.float32), np.empty(2 * count * groups, np.int32)
    _native.quantize_activations(flat, count, cols, q, scale, minus_sum)
    return x, (q, scale, minus_sum, flat, count)


def check(name: str, make: Maker, cols: int) -> None:
    """Every body gives the definition's bits, and those are within float32 rounding of float64. Exits with 1 if not."""
    packed = random_matrix(make, (CHECKED_ROWS, cols))
    x, _ = inputs(3, cols)
    want = packed.product(x)
    W = packed.decode().astype(np.float64)
    for vector, got in zip(x, want, strict=True):
        x64 = vector.astype(np.float64)
        if not name.startswith("dense"):
            xq, xscale = quantize_activations(vector)
            x64 = xq[:cols] * xscale.astype(np.float64).repeat(64)[:cols]
        error, size = np.abs(got - W @ x64), np.abs(W) @ np.abs(x64)
        if not (error <= 2**-24 * (cols / 16 + 6) * size).all():  # each of the sums rounds once, and each product
            sys.exit(f"{name}: the definition is {error.max():.1e} from float64")
    for isa in _native.available_isas():
        _native.set_isa(isa)
        for count in (1, 3):
            out = np.empty(count * CHECKED_ROWS, np.float32)
            _native.product(native(packed), *inputs(count, cols)[1], out, CHECKED_ROWS, 0, CHECKED_ROWS)
            if not np.array_equal(out.reshape(count, -1), want[:count]):
                sys.exit(f"{name}: {isa} differs from the definition in {np.count_nonzero(out.reshape(count, -1) != want[:count])} values")


def prepare(make: Maker, isa: str, size: int, pages: str, cols: int, count: int) -> tuple[int, int, Callable[[], None]]:
    """The bytes and the weights that are read, and one or several products of a matrix with `count` vectors."""
    size = min(size, PLAIN_BYTES) if isa == "plain" else size
    rows = max(1, size // make((UNIT, cols)).stored_bytes) * UNIT
    packed = random_matrix(make, (rows, cols))
    placed = memory_of(sum(array.nbytes + 64 for array in packed.arrays.values()), pages)
    at, arrays = 0, {}
    for suffix, array in packed.arrays.items():
        arrays[suffix] = placed[at : at + array.nbytes].view(array.dtype)
        arrays[suffix][:] = array
        at += -(-array.nbytes // 64) * 64
    held, (_, given), out = native(PackedTensor(packed.packing, arrays)), inputs(count, cols), np.empty(count * rows, np.float32)

    stored = packed.packing.stored_bytes
    times = max(1, LEAST_BYTES // stored)

    def product() -> None:
        _native.set_isa(isa)
        for _ in range(times):
            _native.product(held, *given, out, rows, 0, rows)

    return times * stored, times * rows * cols, product


def measure(cases: list[str], options: argparse.Namespace, count: int) -> tuple[float, list[Any]]:
    """The best read bandwidth, and a row for each layout and instruction set."""
    size, memory = round(options.mib * (1 << 20)), memory_of(READ_BYTES, options.pages)
    isas = options.isa or _native.available_isas()
    jobs = [(case, isa, *prepare(CASES[case], isa, size, options.pages, options.cols, count)) for isa in isas for case in cases]
    speeds: list[list[float]] = [[] for _ in jobs]
    reads: list[list[float]] = [[] for _ in jobs]
    best_isa = _native.available_isas()[-1]
    for _ in range(options.rounds):
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
                "layout": case,
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
    parser.add_argument("--mib", type=float, default=256.0, help="size of each matrix (default 256 MiB)")
    parser.add_argument("--cols", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--vectors", type=int, action="append", help="multiplied at once (default 1); may be repeated")
    parser.add_argument("--only", default="", help="only layouts whose name contains this")
    parser.add_argument("--isa", action="append", choices=_native.available_isas(), help="only this instruction set; may be repeated")
    parser.add_argument("--pages", choices=("4k", "huge"), default="4k", help="a mapped file has 4 KiB pages (default)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    cases = [case for case in CASES if options.only in case]
    for case in cases:
        check(case, CASES[case], options.cols)
    rows: list[dict[str, Any]] = []
    roofline = 0.0
    for count in options.vectors or [1]:
        best, more = measure(cases, options, count)
        roofline, rows = max(roofline, best), rows + more
    report = {
        "conditions": conditions() | {"mib": options.mib, "cols": options.cols, "rounds": options.rounds, "pages": options.pages},
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
