"""The NumPy products of codebooks and pairs are those of the decoded weights, and compressed codebooks expand to those of the file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rwkvquant.codecs import CodebookFactors, CodebookTensor, PackedTensor, PairCodebookTensor
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.gemv_codebook import expand_codebooks, gemv_codebook
from rwkvquant.kernels.gemv_pairs import gemv_pairs
from tests.formats import examples

TABLES = [*((bits, group_rows) for bits in (2, 3) for group_rows in (2, 4, 8, 16)), (4, 4), (4, 8), (4, 16)]
shapes = st.tuples(st.integers(1, 50), st.integers(1, 200))
seeds = st.integers(0, 2**32 - 1)


def activations(rng: np.random.Generator, cols: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    return quantize_activations(rng.standard_normal(cols).astype(np.float32))


def product(tensor: CodebookTensor | PairCodebookTensor, xq: NDArray[np.int8], xscale: NDArray[np.float32]) -> NDArray[np.float32]:
    """y by the kernels' definition, from the arrays of the file."""
    arrays = PackedTensor.pack(tensor).arrays
    rows, cols = tensor.shape
    out = np.full(rows, np.nan, np.float32)
    if isinstance(tensor, PairCodebookTensor):
        gemv_pairs(arrays["codes"], arrays["codebooks"], arrays["row_scale"], xq, xscale, rows, cols, out, tensor.bits, tensor.group_rows)
        return out
    codebooks = arrays.get("codebooks")
    if tensor.factors is not None:
        rank, shift = len(tensor.factors.basis), tensor.factors.shift
        codebooks = expand_codebooks(arrays["coefficients"], arrays["basis"], shift, rows, cols, tensor.bits, tensor.group_rows, rank)
    gemv_codebook(arrays["codes"], codebooks, arrays["row_scale"], xq, xscale, rows, cols, out, tensor.bits, tensor.group_rows)
    return out


def assert_rounded_once_an_operation(tensor: CodebookTensor | PairCodebookTensor, rng: np.random.Generator) -> None:
    """Against the decoded weights in float64, and exactly for one activation of 1, where nothing is rounded."""
    cols = tensor.shape[1]
    xq, xscale = activations(rng, cols)
    W, x = tensor.decode().astype(np.float64), xq[:cols] * xscale.astype(np.float64).repeat(64)[:cols]
    operations = len(xscale) + 2  # the sum of the groups, and two products
    assert (np.abs(product(tensor, xq, xscale) - W @ x) <= operations * 2.0**-24 * (np.abs(W) @ np.abs(x))).all()
    column = int(rng.integers(cols))
    one = np.zeros_like(xq)
    one[column] = 1
    assert np.array_equal(product(tensor, one, np.ones_like(xscale)), tensor.decode()[:, column])


@settings(deadline=None, max_examples=100)
@given(shapes, st.sampled_from(TABLES), st.integers(0, 8), seeds)
def test_the_product_of_codebooks_is_that_of_the_decoded_weights(
    shape: tuple[int, int], table: tuple[int, int], rank: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    assert_rounded_once_an_operation(examples.codebook(rng, shape, *table, rank), rng)


@settings(deadline=None, max_examples=100)
@given(shapes, st.integers(4, 8), st.sampled_from([16, 32, 4096]), seeds)
def test_the_product_of_pairs_is_that_of_the_decoded_weights(shape: tuple[int, int], bits: int, group_rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert_rounded_once_an_operation(examples.pairs(rng, shape, bits, group_rows), rng)


@pytest.mark.parametrize("activation", [127, -128])
@pytest.mark.parametrize("centroid", [0, 127])
def test_the_largest_sums_of_pairs_are_exact(centroid: int, activation: int) -> None:
    books = np.full((1, 256, 2), centroid, np.uint8)
    tensor = PairCodebookTensor(np.full((3, 64), 255, np.uint8), 8, books, np.ones(3, np.float16), 128)
    y = product(tensor, np.full(128, activation, np.int8), np.ones(2, np.float32))
    assert y.tolist() == [128 * (centroid - 64) * activation] * 3


def test_sums_are_rounded_in_the_order_of_the_columns() -> None:
    """2^24 + 1 - 2^24 over three groups of 64 columns: the 1 is lost; in another order it would not be."""
    books = np.full((1, 16, 2), 64 + 1, np.uint8)
    tensor = PairCodebookTensor(np.zeros((1, 96), np.uint8), 4, books, np.ones(1, np.float16), 192)
    xq, xscale = np.zeros(192, np.int8), np.array([2.0**24, 1, 2.0**24], np.float32)
    xq[[0, 64, 128]] = 1, 1, -1
    assert product(tensor, xq, xscale).tolist() == [0]


@settings(deadline=None)
@given(shapes, st.sampled_from(TABLES), st.integers(1, 8), st.integers(0, 14), st.sampled_from(["any", "largest"]), seeds)
def test_expanded_codebooks_are_those_of_the_file(
    shape: tuple[int, int], table: tuple[int, int], rank: int, shift: int, values: str, seed: int
) -> None:
    """For arrays of any bytes, the definition in kernels is that of formats."""
    (rows, cols), (bits, group_rows), rng = shape, table, np.random.default_rng(seed)
    tensor = examples.codebook(rng, shape, bits, group_rows, rank)
    assert tensor.factors is not None
    coefficients, basis = tensor.factors.coefficients, tensor.factors.basis
    if values == "largest":
        coefficients, basis = np.where(coefficients < 0, -128, 127).astype(np.int8), np.full_like(basis, -128)
    factors = CodebookFactors(coefficients, basis, shift)
    stored = CodebookTensor(tensor.codes, bits, factors.centroids(), tensor.row_scale, group_rows, factors=factors)
    arrays = PackedTensor.pack(stored).arrays
    expanded = expand_codebooks(arrays["coefficients"], arrays["basis"], shift, rows, cols, bits, group_rows, rank)
    plain = PackedTensor.pack(CodebookTensor(tensor.codes, bits, stored.codebooks, tensor.row_scale, group_rows)).arrays
    blocks = -(-rows // 16) * 16 // group_rows * -(-cols // 32)
    assert expanded.dtype == np.uint8 and expanded.size == blocks * 2**bits and expanded.max() < 128
    differing = expanded != plain["codebooks"][: expanded.size]
    assert (expanded[differing] == 64).all() and (plain["codebooks"][: expanded.size][differing] == 0).all()  # tables of padded rows
    assert rows % 16 or not differing.any()
