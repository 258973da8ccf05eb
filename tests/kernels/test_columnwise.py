"""Products with matrices stored by columns: every native body gives the bits of kernels/gemv_columnwise.py, however columns are skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.codecs import PackedTensor, Packing
from rwkvquant.kernels import chunks
from tests.kernels import matrices
from tests.kernels.guarded import at_offset, on_every_body

Floats = NDArray[np.float32]
WAYS = {"chosen": 0, "sparse": 1, "dense": 2}
BITS = (2, 3, 4)


def squared_relu(count: int, cols: int, density: float, seed: int = 0) -> Floats:
    """(count, cols), of which about this share is not zero."""
    rng = np.random.default_rng([count, cols, seed])
    return np.where(rng.random((count, cols)) < density, np.square(rng.standard_normal((count, cols))), 0).astype(np.float32)


def native(matrix: PackedTensor, x: Floats, int8: bool = True, way: int = 0, cuts: tuple[int, ...] = ()) -> dict[str, Floats]:
    """(count, rows) by instruction set, each written into NaN between guard bands, rows cut at `cuts`."""
    (count, cols), rows = x.shape, matrix.shape[0]
    held = _native.Matrix(**matrices.fields(matrix, way=way))
    padded = np.zeros((count, -(-cols // 64) * 64), np.float32)
    padded[:, :cols] = x
    groups = padded.size // 64
    parts = (np.zeros(padded.size, np.int8), np.zeros(groups, np.float32), np.zeros(2 * groups, np.int32)) if int8 else (None, None, None)

    def run(out: Floats) -> None:
        for begin, end in zip((0, *cuts), (*cuts, rows), strict=True):
            _native.product(held, *parts, padded.reshape(-1), count, out, rows, begin, end)

    return {isa: out.reshape(count, rows) for isa, out in on_every_body(run, count * rows).items()}


def check(matrix: PackedTensor, x: Floats, **how: Any) -> None:
    want = matrix.product(x, how.get("int8", True))
    for isa, got in native(matrix, x, **how).items():
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32), err_msg=f"{isa} {matrices.name(matrix)} {how}")


@pytest.mark.parametrize("int8", [True, False], ids=["rounded", "float32"])
@pytest.mark.parametrize("bits", BITS)
def test_every_number_of_pieces_and_every_remainder_of_rows(bits: int, int8: bool) -> None:
    for rows in (1, 16, 100, 128, 130, 255, 257, 384, 400, 512, 513, 700, 1100):
        check(matrices.columnwise(rows, 70, bits), squared_relu(2, 70, 0.5), int8=int8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("density", [0, 0.01, 0.05, 0.125, 0.3, 0.5, 0.9, 1])
def test_every_density_gives_the_bits_of_the_definition(density: float, way: str) -> None:
    """Lists end inside four columns, inside a strip of 64, and inside a block of 1024."""
    for bits, cols in ((3, 1), (2, 63), (4, 64), (3, 65), (3, 1023), (2, 1025), (3, 2200)):
        for count in (1, 2, 5, 17):
            check(matrices.columnwise(200, cols, bits), squared_relu(count, cols, density), way=WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_rows_may_be_cut_anywhere_at_multiples_of_16(way: str) -> None:
    matrix, x = matrices.columnwise(700, 150), squared_relu(3, 150, 0.4)
    for cuts in ((16,), (512,), (48, 128, 512, 528), (496, 640), (688,)):
        check(matrix, x, way=WAYS[way], cuts=cuts)
        check(matrix, x, int8=False, cuts=cuts)


@pytest.mark.parametrize("way", WAYS)
def test_vectors_of_every_density_share_a_product(way: str) -> None:
    matrix = matrices.columnwise(530, 2100)
    x = np.concatenate([squared_relu(1, 2100, density, seed) for seed, density in enumerate([0, 1, 0.2, 0.01, 0.5] * 8)])
    check(matrix, x, way=WAYS[way])


@pytest.mark.parametrize("int8", [True, False], ids=["rounded", "float32"])
def test_a_number_that_is_not_finite_is_seen_in_every_row_of_its_vector(int8: bool) -> None:
    matrix = matrices.columnwise(200, 100)
    for bad in (np.nan, -np.nan, np.inf):
        x = squared_relu(3, 100, 0.3)
        x[1, 40] = bad
        for isa, got in native(matrix, x, int8).items():
            assert not np.isfinite(got[1]).any(), isa
            np.testing.assert_array_equal(got[[0, 2]], matrix.product(x[[0, 2]], int8), err_msg=isa)


def test_negative_tiny_and_huge_activations_are_rounded_as_the_definition_does() -> None:
    matrix = matrices.columnwise(130, 90)
    rng = np.random.default_rng(0)
    for scale in (1e-45, 1e-40, 1e-38, 1e-30, 1, 1e30, 5e37):
        x = (rng.standard_normal((2, 90)) * scale).astype(np.float32)
        check(matrix, x)
        check(matrix, np.abs(x), int8=False)
    check(matrix, rng.standard_normal((2, 90)).astype(np.float32), int8=False)
    check(matrix, -squared_relu(2, 90, 0.5))


@pytest.mark.parametrize("bits", BITS)
def test_every_code_is_read_from_its_own_place(bits: int) -> None:
    """With one activation the product is one column of codes; with as many matrices as codes, every code is in every place once."""
    table = np.zeros(64, np.int8)
    table[: 1 << bits] = np.arange(1 << bits) * 5 - 20
    ones = np.ones(512, np.float16)
    for turn in range(1 << bits):
        codes = ((np.arange(512)[:, None] + 3 * np.arange(5) + turn) % (1 << bits)).astype(np.uint8)
        arrays = {"codes": chunks.pack_chunks(codes, bits), "table": table, "row_scale": ones, "col_scale": ones[:32]}
        matrix = PackedTensor(Packing(f"columnwise{bits}.r512", (512, 5)), arrays)
        want = (table[codes].T.astype(np.float32) * 65535) * (np.float32(1) / np.float32(65535))
        for isa, got in native(matrix, np.eye(5, dtype=np.float32)).items():
            np.testing.assert_allclose(got, want, rtol=1e-6, err_msg=isa)


def test_the_largest_products_do_not_overflow() -> None:
    """2^17 columns, all activations and all entries at their ends."""
    cols = 1 << 17
    for entry in (64, -64):
        arrays = {
            "codes": np.zeros(128 * cols * 2 // 8, np.uint8),
            "table": np.full(64, entry, np.int8),
            "row_scale": np.ones(32, np.float16),
            "col_scale": np.ones(cols, np.float16),
        }
        matrix = PackedTensor(Packing("columnwise2.r512", (16, cols)), arrays)
        for way in WAYS.values():
            for isa, got in native(matrix, np.ones((2, cols), np.float32), way=way).items():
                np.testing.assert_allclose(got, np.float32(entry) * cols, rtol=1e-6, err_msg=isa)


@pytest.mark.parametrize("offset", [1, 2, 31, 63])
def test_arrays_may_be_at_any_address(offset: int) -> None:
    matrix = matrices.columnwise(300, 100)
    moved = replace(matrix, arrays={name: at_offset(array, offset) for name, array in matrix.arrays.items()})
    for count in (1, 6):
        for way in WAYS.values():
            check(moved, squared_relu(count, 100, 0.4), way=way)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 5}, "bits must be 2 to 4; got 5"),
        ({"way": 3}, "way must be 0 to 2; got 3"),
        ({"cols": 131073}, "a matrix stored by columns must have at most 131072 columns"),
        ({"rows": 513}, "codes must hold 15360 values; got 12288"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Matrix(**matrices.fields(matrices.columnwise(512, 64), **changes))
