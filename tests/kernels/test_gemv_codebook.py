"""gemv_codebook: each native body gives the bits of the NumPy definition, and the definition is the product it says it is."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.gemv_codebook import gemv_codebook
from tests.kernels.guarded import assert_same_bits, at_offset, on_every_body


@dataclass(frozen=True)
class Product:
    """A matrix by its logical parts, and a quantised vector."""

    codes: NDArray[np.uint8]
    codebooks: NDArray[np.uint8]
    row_scale: NDArray[np.float16]
    xq: NDArray[np.int8]
    xscale: NDArray[np.float32]

    @property
    def packed(self) -> list[Any]:
        matrix = [tiles.pack_tiles(self.codes, 3, 32), tiles.pack_codebooks(self.codebooks), tiles.pack_row_scale(self.row_scale)]
        return [*matrix, self.xq, self.xscale, *self.codes.shape]

    @property
    def weights(self) -> NDArray[np.float64]:
        rows, cols = self.codes.shape
        centroids = self.codebooks[np.arange(rows)[:, None] // 2, np.arange(cols)[None] // 32, self.codes]
        return self.row_scale.astype(np.float64)[:, None] * (centroids.astype(np.float64) - 64)

    @property
    def x(self) -> NDArray[np.float64]:
        cols = self.codes.shape[1]
        return self.xq[:cols] * self.xscale.astype(np.float64).repeat(64)[:cols]


def random_product(rows: int, cols: int) -> Product:
    rng = np.random.default_rng([rows, cols])
    xq, xscale = quantize_activations(rng.standard_normal(cols).astype(np.float32))
    codebooks = rng.integers(0, 128, (-(-rows // 2), -(-cols // 32), 8), dtype=np.uint8)
    return Product(rng.integers(0, 8, (rows, cols), dtype=np.uint8), codebooks, rng.random(rows).astype(np.float16), xq, xscale)


def definition(case: Product) -> NDArray[np.float32]:
    out = np.full(len(case.codes), np.nan, np.float32)
    gemv_codebook(*case.packed, out)
    return out


def native(packed: list[Any]) -> dict[str, NDArray[np.float32]]:
    return on_every_body(lambda out: _native.gemv_codebook(*packed, out), packed[-2])


def test_every_remainder_of_rows_and_columns_up_to_two_tiles() -> None:
    for rows, cols in [*product(range(1, 34), range(1, 66)), *product((1, 17), range(66, 130))]:
        case = random_product(rows, cols)
        assert_same_bits(native(case.packed), definition(case))


@pytest.mark.parametrize("column", range(64))
def test_every_code_and_table_is_read_from_its_own_place(column: int) -> None:
    """With one activation of 1, the product is one column of centroids; the 16 tables share no sequence of centroids."""
    codes = ((np.arange(16)[:, None] + 3 * np.arange(64)) % 8).astype(np.uint8)
    codebooks = (np.arange(128).reshape(8, 2, 8)).astype(np.uint8)  # every centroid once
    xq = np.zeros(64, np.int8)
    xq[column] = 1
    for turn in range(8):
        case = Product((codes + turn) % 8, codebooks, np.ones(16, np.float16), xq, np.ones(1, np.float32))
        want = codebooks[np.arange(16) // 2, column // 32, case.codes[:, column]].astype(np.float32) - 64
        assert_same_bits(native(case.packed), want)


@pytest.mark.parametrize("activation", [127, -127, -128])
@pytest.mark.parametrize("centroid", [0, 64, 127])
def test_the_largest_products_do_not_saturate(centroid: int, activation: int) -> None:
    codes, codebooks = np.full((32, 128), 7, np.uint8), np.full((16, 4, 8), centroid, np.uint8)
    case = Product(codes, codebooks, np.ones(32, np.float16), np.full(128, activation, np.int8), np.ones(2, np.float32))
    assert_same_bits(native(case.packed), np.full(32, 128 * (centroid - 64) * activation, np.float32) + 0)


@pytest.mark.parametrize("offset", [1, 2, 4, 31, 63])
def test_inputs_may_stand_at_any_address(offset: int) -> None:
    case = random_product(35, 200)
    packed = [at_offset(each, offset) if isinstance(each, np.ndarray) else each for each in case.packed]
    assert_same_bits(native(packed), definition(case))


def test_what_lies_in_padding_is_never_read_out() -> None:
    case = random_product(rows=20, cols=70)
    rng = np.random.default_rng(1)
    padded = rng.integers(0, 8, (32, 96), dtype=np.uint8)
    padded[:20, :70] = case.codes
    tables = rng.integers(0, 128, (16, 3, 8), dtype=np.uint8)
    tables[:10] = case.codebooks
    packed = case.packed
    packed[:2] = [tiles.pack_tiles(padded, 3, 32), tiles.pack_codebooks(tables)]
    packed[2][20:] = np.nan
    assert_same_bits(native(packed), definition(case))


def test_the_definition_rounds_once_an_operation() -> None:
    case = random_product(64, 1000)
    exact, size = case.weights @ case.x, np.abs(case.weights) @ np.abs(case.x)
    operations = 16 + 2  # the sums of 16 groups, and two products
    assert (np.abs(definition(case) - exact) <= operations * 2.0**-24 * size).all()


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (0, np.zeros(383, np.uint8), r"\[gemv_codebook\] codes must hold 384 values; got 383"),
        (1, np.zeros(127, np.uint8), r"\[gemv_codebook\] codebooks must hold 128 values; got 127"),
        (1, np.zeros(128, np.int8), r"\[gemv_codebook\] codebooks must be uint8; got int8"),
        (2, np.zeros(15, np.float16), r"\[gemv_codebook\] row_scale must hold 16 values; got 15"),
        (3, np.zeros(63, np.int8), r"\[gemv_codebook\] xq must hold 64 values; got 63"),
        (4, np.zeros(0, np.float32), r"\[gemv_codebook\] xscale must hold 1 values; got 0"),
        (6, 1 << 31, r"\[gemv_codebook\] rows and cols must be below 2\*\*31"),
        (7, np.zeros(17, np.float32), r"\[gemv_codebook\] out must hold one value a row, 16; got 17"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(argument: int, value: Any, message: str) -> None:
    arguments = [*random_product(16, 64).packed, np.zeros(16, np.float32)]
    arguments[argument] = value
    with pytest.raises(ValueError, match=message):
        _native.gemv_codebook(*arguments)
