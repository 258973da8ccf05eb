"""The definition of products with matrices stored by columns (kernels/gemv_columnwise.py): what it promises, shown without its own code."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.codecs import ColumnwiseConfig, PackedTensor
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels import chunks
from rwkvquant.kernels.gemv_columnwise import quantize_columns
from tests.formats import examples


def squared_relu(count: int, cols: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng([count, cols, seed]).standard_normal((count, cols)).astype(np.float32)
    return np.square(np.maximum(x, 0))


@pytest.mark.parametrize("bits", [2, 3, 4])
@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (128, 3), (129, 2), (512, 5), (640, 1), (1300, 2)])
def test_codes_come_back_from_their_chunks(rows: int, cols: int, bits: int) -> None:
    codes = np.random.default_rng(rows).integers(0, 2**bits, (rows, cols), dtype=np.uint8)
    packed = chunks.pack_chunks(codes, bits)
    assert packed.size == -(-rows // 128) * 128 * cols * bits // 8
    assert np.array_equal(chunks.unpack_chunks(packed, rows, cols, bits), codes)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_a_column_of_a_chunk_is_all_its_codes(bits: int) -> None:
    """So a column that is skipped is not read at all: its bytes are next to one another, and no other column has any of them."""
    codes = np.zeros((1024, 6), np.uint8)
    codes[:, 4] = 2**bits - 1
    packed = chunks.pack_chunks(codes, bits).reshape(2, 6, 64 * bits)
    assert (packed[:, 4] == 255).all() and not np.delete(packed, 4, axis=1).any()


def test_the_product_is_that_of_the_decoded_weights_and_the_rounded_activations() -> None:
    """Within one rounding for each float32 operation at the end; the sums before are exact."""
    for bits in (2, 3, 4):
        tensor = examples.columnwise(np.random.default_rng(bits), (300, 200), bits)
        x = squared_relu(3, 200)
        scaled = x.astype(np.float64) * tensor.col_scale.astype(np.float64)
        steps = scaled.max(axis=1, keepdims=True) / 65535
        W = tensor.row_scale.astype(np.float64)[:, None] * tensor.table.astype(np.float64)[tensor.codes]
        rounded = np.rint(scaled / steps) * steps
        assert np.abs(rounded - scaled).max() <= steps.max() / 2
        got, want = PackedTensor.pack(tensor).product(x), rounded @ W.T
        # one step more where x / scale is nearly half way between two whole numbers
        bound = 2.0**-20 * (rounded @ np.abs(W).T) + steps * np.abs(W).max(axis=1)
        assert (np.abs(got - want) <= bound).all()


def test_activations_are_rounded_half_to_even_and_negative_ones_count_as_zero() -> None:
    ones = np.ones(7, np.float16)
    x = np.array([65535, 0.5, 1.5, 2.5, -3, -np.inf, 40000], np.float32)
    q, scale = quantize_columns(x, ones)
    assert q.tolist() == [65535, 0, 2, 2, 0, 0, 40000] and scale == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_seen_in_every_row(bad: float) -> None:
    packed = PackedTensor.pack(examples.columnwise(np.random.default_rng(0), (20, 9)))
    x = squared_relu(1, 9)
    x[0, 3] = bad
    assert np.isnan(packed.product(x)).all()


def test_zeros_give_zeros() -> None:
    packed = PackedTensor.pack(examples.columnwise(np.random.default_rng(0), (20, 9)))
    for int8 in (True, False):
        assert (packed.product(np.zeros((2, 9), np.float32), int8) == 0).all()


def test_parameters_and_widths_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match="bits must be"):
        ColumnwiseConfig(5)
    with pytest.raises(FormatError, match="has at most 131072 columns; got 131073"):
        ColumnwiseConfig(3).stored_bytes((16, 131073))
    with pytest.raises(FormatError, match=r"columnwise3\.rows"):
        ColumnwiseConfig(3).stored_bytes((16, 64), rows=True)


def test_the_bits_of_a_weight_are_those_of_its_code_and_two_scales() -> None:
    assert 8 * ColumnwiseConfig(3).stored_bytes((2048, 8192)) / (2048 * 8192) == 3 + 16 / 2048 + 16 / 8192 + 8 * 64 / (2048 * 8192)


def test_damaged_tables_and_scales_are_noticed() -> None:
    packed = PackedTensor.pack(examples.columnwise(np.random.default_rng(0), (20, 9)))
    rule = lambda suffix, value: packed.codec.broken_rule(packed.packing, suffix, np.array([0, value], packed.arrays[suffix].dtype))  # noqa: E731
    assert rule("table", 65) == rule("table", -65) == rule("table", -128) == ("table", "be -64 to 64")
    assert rule("col_scale", -1) == ("col_scale", "be 0 or more")
    assert rule("table", -64) is rule("col_scale", 3) is rule("row_scale", -1) is None
