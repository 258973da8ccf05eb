"""gemv_uniform: each native body gives the bits of the NumPy definition, and the definition is the product it says it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.gemv_uniform import gemv_uniform, pieces
from tests.kernels.guarded import assert_same_bits, at_offset, on_every_body


@dataclass(frozen=True)
class Product:
    """A matrix by its logical parts, and a quantised vector."""

    codes: NDArray[np.uint8]
    scales: NDArray[Any]
    row_scale: NDArray[np.float16] | None
    zeros: NDArray[np.uint8] | None
    xq: NDArray[np.int8]
    xscale: NDArray[np.float32]
    group_size: int

    @property
    def packed(self) -> list[Any]:
        rows, cols = self.codes.shape
        row_scale = None if self.row_scale is None else tiles.pack_row_scale(self.row_scale)
        zeros = None if self.zeros is None else tiles.pack_zeros(self.zeros, 3)
        matrix = [tiles.pack_tiles(self.codes, 3, 64), tiles.pack_scales(self.scales), row_scale, zeros]
        return [*matrix, self.xq, self.xscale, rows, cols, self.group_size]

    @property
    def weights(self) -> NDArray[np.float64]:
        group = np.arange(self.codes.shape[1]) // self.group_size
        zeros = np.full(self.scales.shape, 4) if self.zeros is None else self.zeros
        scales = self.scales.astype(np.float64)
        scales = scales if self.row_scale is None else scales * self.row_scale.astype(np.float64)[:, None]
        return scales[:, group] * (self.codes.astype(np.float64) - zeros[:, group])

    @property
    def x(self) -> NDArray[np.float64]:
        cols = self.codes.shape[1]
        return self.xq[:cols] * self.xscale.astype(np.float64).repeat(64)[:cols]


def random_product(rows: int, cols: int, group_size: int = 64, symmetric: bool = False, wide_scales: bool = False) -> Product:
    rng = np.random.default_rng([rows, cols])
    groups = -(-cols // group_size)
    xq, xscale = quantize_activations(rng.standard_normal(cols).astype(np.float32))
    scales: Any = rng.integers(0, 256, (rows, groups), dtype=np.uint8)
    if wide_scales:
        scales = rng.random((rows, groups)).astype(np.float16)
    return Product(
        codes=rng.integers(0, 8, (rows, cols), dtype=np.uint8),
        scales=scales,
        row_scale=None if wide_scales else (rng.random(rows) + 0.1).astype(np.float16),
        zeros=None if symmetric else rng.integers(0, 8, (rows, groups), dtype=np.uint8),
        xq=xq,
        xscale=xscale,
        group_size=group_size,
    )


def definition(case: Product) -> NDArray[np.float32]:
    out = np.full(len(case.codes), np.nan, np.float32)
    gemv_uniform(*case.packed, out)
    return out


def native(packed: list[Any]) -> dict[str, NDArray[np.float32]]:
    return on_every_body(lambda out: _native.gemv_uniform(*packed, out), packed[-3])


@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
@pytest.mark.parametrize("wide_scales", [True, False], ids=["float16", "uint8"])
@pytest.mark.parametrize("group_size", [64, 128, 192])
def test_every_remainder_of_rows_and_columns_up_to_two_tiles(group_size: int, wide_scales: bool, symmetric: bool) -> None:
    all_rows, all_cols = range(1, 34), range(1, 130)
    for rows, cols in [*product(all_rows, (1, 64, 65, 100)), *product((1, 17), all_cols)]:
        case = random_product(rows, cols, group_size, symmetric, wide_scales)
        assert_same_bits(native(case.packed), definition(case))


@pytest.mark.parametrize("column", range(64))
def test_every_code_is_read_from_its_own_place(column: int) -> None:
    """With one activation of 1, the product is one column of codes; eight matrices put every code in every place."""
    codes = ((np.arange(16)[:, None] + 3 * np.arange(64)) % 8).astype(np.uint8)
    xq = np.zeros(64, np.int8)
    xq[column] = 1
    ones = np.ones((16, 1), np.uint8)
    for turn in range(8):
        case = Product((codes + turn) % 8, ones, np.ones(16, np.float16), 0 * ones, xq, np.ones(1, np.float32), 64)
        assert_same_bits(native(case.packed), case.codes[:, column].astype(np.float32))


@pytest.mark.parametrize("zero", range(8))
def test_every_zero_is_read_from_its_own_place(zero: int) -> None:
    zeros = ((np.arange(16)[:, None] + np.arange(2) + zero) % 8).astype(np.uint8)
    codes = np.zeros((16, 128), np.uint8)
    case = Product(codes, np.ones((16, 2), np.uint8), np.ones(16, np.float16), zeros, np.ones(128, np.int8), np.ones(2, np.float32), 64)
    assert_same_bits(native(case.packed), -64 * zeros.sum(axis=1).astype(np.float32))


@pytest.mark.parametrize("activation", [127, -127, -128])
@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("code", [0, 7])
def test_the_largest_products_do_not_saturate(code: int, zero: int, activation: int) -> None:
    codes, zeros = np.full((32, 128), code, np.uint8), np.full((32, 2), zero, np.uint8)
    scales, row_scale = np.full((32, 2), 255, np.uint8), np.ones(32, np.float16)
    case = Product(codes, scales, row_scale, zeros, np.full(128, activation, np.int8), np.ones(2, np.float32), 64)
    assert_same_bits(native(case.packed), np.full(32, 2 * 255 * 64 * (code - zero) * activation, np.float32))


def test_every_finite_float16_is_decoded_exactly() -> None:
    """As row_scale and as scales; subnormals and both zeros among them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    ones = np.ones((len(halves), 1), np.uint8)
    one_hot = np.eye(1, 64, dtype=np.int8)[0]
    by_row = Product(5 * ones.repeat(64, axis=1), ones, halves, 4 * ones, one_hot, np.ones(1, np.float32), 64)
    assert_same_bits(native(by_row.packed), halves.astype(np.float32))
    by_group = replace(by_row, scales=halves[:, None], row_scale=None)
    assert_same_bits(native(by_group.packed), halves.astype(np.float32) + 0)  # y starts at +0


@pytest.mark.parametrize("offset", [1, 2, 4, 31, 63])
def test_inputs_may_stand_at_any_address(offset: int) -> None:
    case = random_product(35, 200)
    packed = [at_offset(each, offset) if isinstance(each, np.ndarray) else each for each in case.packed]
    assert_same_bits(native(packed), definition(case))


def test_what_lies_in_padding_is_never_read_out() -> None:
    case = random_product(rows=20, cols=70)
    rng = np.random.default_rng(1)
    padded = rng.integers(0, 8, (32, 128), dtype=np.uint8)
    padded[:20, :70] = case.codes
    packed = case.packed
    packed[0] = np.concatenate([tiles.pack_tiles(padded, 3, 64), rng.integers(0, 256, 64, dtype=np.uint8)])
    packed[2][20:] = np.nan
    assert_same_bits(native(packed), definition(case))


def test_the_definition_rounds_once_an_operation() -> None:
    case = random_product(64, 1000)
    exact, size = case.weights @ case.x, np.abs(case.weights) @ np.abs(case.x)
    operations = 16 + 3  # the sums of 16 pieces, and three products
    assert (np.abs(definition(case) - exact) <= operations * 2.0**-24 * size).all()


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize(("tile_cols", "group_size"), [(64, 64), (64, 128), (32, 32), (32, 96), (32, 128)])
def test_the_definition_serves_every_width_tile_and_group(bits: int, tile_cols: int, group_size: int) -> None:
    rng = np.random.default_rng(bits)
    rows, cols = 21, 230
    groups = -(-cols // group_size)
    codes, zeros = (rng.integers(0, 1 << bits, shape, dtype=np.uint8) for shape in ((rows, cols), (rows, groups)))
    scales = rng.integers(0, 256, (rows, groups), dtype=np.uint8)
    xq, xscale = quantize_activations(rng.standard_normal(cols).astype(np.float32))
    case = Product(codes, scales, np.ones(rows, np.float16), zeros, xq, xscale, group_size)
    out = np.empty(rows, np.float32)
    packed = [tiles.pack_tiles(codes, bits, tile_cols), tiles.pack_scales(scales), tiles.pack_row_scale(case.row_scale)]
    gemv_uniform(*packed, tiles.pack_zeros(zeros, bits), xq, xscale, rows, cols, group_size, out, bits, tile_cols)
    np.testing.assert_allclose(out, case.weights @ case.x, rtol=0, atol=1e-6 * (np.abs(case.weights) @ np.abs(case.x)).max())


def test_a_piece_crosses_no_group() -> None:
    assert list(pieces(200, 64)) == [(0, 64), (64, 128), (128, 192), (192, 200)]
    assert list(pieces(200, 96)) == [(0, 64), (64, 96), (96, 128), (128, 192), (192, 200)]
    assert list(pieces(20, 128)) == [(0, 20)]


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (0, np.zeros(383, np.uint8), r"\[gemv_uniform\] codes must hold 384 values; got 383"),
        (0, np.zeros(384, np.int8), r"\[gemv_uniform\] codes must be uint8; got int8"),
        (0, np.zeros((2, 192), np.uint8), r"\[gemv_uniform\] codes must be flat and contiguous"),
        (0, np.zeros(768, np.uint8)[::2], r"\[gemv_uniform\] codes must be flat and contiguous"),
        (1, np.zeros(16, np.float16), r"\[gemv_uniform\] scales must be uint8; got float16"),
        (2, None, r"\[gemv_uniform\] scales must be float16; got uint8"),
        (2, np.zeros(16, np.float32), r"\[gemv_uniform\] row_scale must be float16; got float32"),
        (3, np.zeros(5, np.uint8), r"\[gemv_uniform\] zeros must hold 6 values; got 5"),
        (4, np.zeros(60, np.int8), r"\[gemv_uniform\] xq must hold 64 values; got 60"),
        (5, np.zeros(1, np.float64), r"\[gemv_uniform\] xscale must be float32; got float64"),
        (6, 1 << 31, r"\[gemv_uniform\] rows and cols must be below 2\*\*31"),
        (8, 96, r"\[gemv_uniform\] group_size must be a multiple of 64 below 2\*\*31 for tiles of 64 columns; got 96"),
        (8, (1 << 64) - 64, r"\[gemv_uniform\] group_size must be a multiple of 64 below 2\*\*31"),
        (8, 0, r"\[gemv_uniform\] group_size must be a multiple of 64"),
        (9, np.zeros(15, np.float32), r"\[gemv_uniform\] out must hold one value a row, 16; got 15"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(argument: int, value: Any, message: str) -> None:
    arguments = [*random_product(16, 64).packed, np.zeros(16, np.float32)]
    arguments[argument] = value
    with pytest.raises(ValueError, match=message):
        _native.gemv_uniform(*arguments)


@pytest.mark.parametrize("out", [np.zeros(16), np.zeros(32, np.float32)[::2], np.zeros((16, 1), np.float32)])
def test_an_output_that_would_be_copied_is_refused(out: NDArray[Any]) -> None:
    with pytest.raises(TypeError):
        _native.gemv_uniform(*random_product(16, 64).packed, out)


def test_a_read_only_output_is_refused_and_read_only_inputs_are_not() -> None:
    packed = random_product(16, 64).packed
    for each in packed:
        if isinstance(each, np.ndarray):
            each.flags.writeable = False
    out = np.zeros(16, np.float32)
    _native.gemv_uniform(*packed, out)
    out.flags.writeable = False
    with pytest.raises(TypeError):
        _native.gemv_uniform(*packed, out)
