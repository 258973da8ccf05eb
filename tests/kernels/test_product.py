"""Every native body gives the bits of the NumPy definition of `product`, for every layout, number of vectors, and split of rows."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.codecs import PackedTensor, Packing
from rwkvquant.codecs.native import native_product
from rwkvquant.kernels import tiles
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.bfloat import narrow_exactly, widen_bfloat
from tests.kernels import matrices
from tests.kernels.guarded import assert_same_bits, at_offset, on_every_body

Floats = NDArray[np.float32]


def vectors(count: int, cols: int, seed: int = 0) -> Floats:
    return np.random.default_rng([count, cols, seed]).standard_normal((count, cols)).astype(np.float32)


def uniform(
    arrays: dict[str, Any], rows: int, cols: int, bits: int, tile_cols: int, group_size: int, symmetric: bool, scale_bits: int
) -> PackedTensor:
    values = {"group_size": group_size, "symmetric": symmetric, "scale_bits": scale_bits}
    return PackedTensor(Packing(f"uniform{bits}.t16x{tile_cols}", (rows, cols), values), arrays)


def int8_parts(q: NDArray[np.int8]) -> tuple[Any, Any, Any]:
    """(count, padded) -> q, scale of 1, minus_sum, as the native product takes them."""
    halves = q.reshape(-1, 2, 32).sum(axis=2, dtype=np.int32)
    minus_sum = -np.stack([halves.sum(axis=1, dtype=np.int32), halves[:, 1]], axis=1).reshape(-1)
    return q.reshape(-1), np.ones(len(halves), np.float32), minus_sum


def native_int8(matrix: PackedTensor, q: NDArray[np.int8]) -> dict[str, Floats]:
    """By instruction set, (count * rows,) products of activations that are whole numbers with scale 1."""
    held, parts = matrix.native(_native), int8_parts(q)
    run: Callable[[Floats], None] = lambda out: _native.product(held, *parts, None, len(q), out, matrix.shape[0], 0, matrix.shape[0])  # noqa: E731
    return on_every_body(run, len(q) * matrix.shape[0])


def native(matrix: PackedTensor, x: Floats, int8: bool = True) -> dict[str, Floats]:
    """(count, rows) by instruction set, each written into NaN between guard bands."""
    run: Callable[[Floats], None] = lambda out: native_product(_native, matrix, x, int8, out)  # type: ignore[assignment]  # noqa: E731
    return {isa: out.reshape(len(x), matrix.shape[0]) for isa, out in on_every_body(run, len(x) * matrix.shape[0]).items()}


def check(matrix: PackedTensor, x: Floats, int8: bool = True) -> None:
    """All vectors together, and the first one alone, which runs another loop."""
    want = matrix.product(x, int8)
    for count in {1, len(x)}:
        for isa, got in native(matrix, x[:count], int8).items():
            message = f"{isa} {matrices.name(matrix)}, {count} vectors"
            np.testing.assert_array_equal(got.view(np.uint32), want[:count].view(np.uint32), err_msg=message)


def decoded(matrix: PackedTensor) -> NDArray[np.float64]:
    """Decoded by the codec's `unpack`, which shares no code with products."""
    if matrix.layout == "dense.bf16":  # the upper two bytes of a float32
        values = [struct.unpack(">f", struct.pack(">H2x", value))[0] for value in matrix.arrays["values"]]
        return np.array(values).reshape(matrix.shape)
    arrays = {}
    for suffix, (dtype, count) in matrix.packing.sizes().items():
        arrays[suffix] = np.zeros(count, dtype)
        arrays[suffix][: len(matrix.arrays[suffix])] = matrix.arrays[suffix]
    return replace(matrix, arrays=arrays).decode().astype(np.float64)


def check_every_length(stride: int) -> None:
    """Up to two tiles, and every remainder of rows; one length has each `stride`th layout, the next length the layouts after them."""
    for cols in range(1, 130):
        for matrix in matrices.every_layout(cols * 7 % 33 + 1, cols)[cols % stride :: stride]:
            check(matrix, vectors(cols % 3 + 1, cols))


def test_every_length_with_some_layouts() -> None:
    """tests/cpus/check_lengths.py has each length with each layout."""
    check_every_length(7)


def test_every_number_of_vectors_is_one_vector_many_times() -> None:
    """Registers hold 8 vectors, then 4, 2 and 1; and a pass holds 128."""
    for matrix in (matrices.uniform(40, 200, 5), matrices.uniform(40, 200, 8, 32, 96), matrices.codebook(40, 200), matrices.dense(40, 200)):
        x = vectors(131, 200)
        alone = np.concatenate([native(matrix, each[None])[_native.available_isas()[-1]] for each in x])
        for count in (*range(1, 18), 128, 131):
            for isa, got in native(matrix, x[:count]).items():
                np.testing.assert_array_equal(got, alone[:count], err_msg=f"{isa} {count} {matrices.name(matrix)}")


def test_float32_activations_give_the_bits_of_the_definition() -> None:
    for rows, cols, count in ((17, 70, 3), (40, 129, 2), (5, 31, 1)):
        for matrix in matrices.every_layout(rows, cols):
            check(matrix, vectors(count, cols), int8=False)


@pytest.mark.parametrize("int8", [True, False], ids=["int8", "float32"])
def test_the_definition_is_the_product_of_the_decoded_weights(int8: bool) -> None:
    """Within one rounding for each float32 operation on the longest path; the weights are decoded by other code."""
    for matrix in matrices.every_layout(30, 250):
        x = vectors(2, 250)
        x64 = x.astype(np.float64)
        if int8 and matrix.native_form().int8:
            parts = [quantize_activations(vector) for vector in x]
            x64 = np.stack([(xq * xscale.astype(np.float64).repeat(64))[:250] for xq, xscale in parts])
        W = decoded(matrix)
        operations = 250 / 32 + 20 + (0 if int8 else 20)
        bound = operations * 2.0**-24 * (np.abs(x64) @ np.abs(W).T)
        if not int8:  # code - zero loses digits that cancel: what is added is up to 2^bits larger
            bound *= 2
        assert (np.abs(matrix.product(x, int8) - x64 @ W.T) <= bound).all(), matrices.name(matrix)


def test_work_split_by_rows_gives_the_same_bits() -> None:
    isa = _native.available_isas()[-1]
    for matrix in matrices.every_layout(85, 130):
        for count in (1, 9):
            x = np.zeros((count, 192), np.float32)
            x[:, :130] = vectors(count, 130)
            want = native(matrix, x[:, :130])[isa]
            q, scale, minus_sum = np.empty(count * 192, np.int8), np.empty(count * 3, np.float32), np.empty(count * 6, np.int32)
            _native.quantize_activations(x.reshape(-1), count, 130, q, scale, minus_sum)
            out = np.full(count * 100, np.nan, np.float32)
            for begin, end in ((32, 48), (0, 32), (48, 85)):
                _native.product(matrix.native(_native), q, scale, minus_sum, x.reshape(-1), count, out, 100, begin, end)
            got = out.reshape(count, 100)
            np.testing.assert_array_equal(got[:, :85], want, err_msg=matrices.name(matrix))
            assert np.isnan(got[:, 85:]).all(), "written beyond the last row"


def one_hot(column: int, padded: int = 64) -> NDArray[np.int8]:
    return np.eye(1, padded, column, dtype=np.int8)


@pytest.mark.parametrize(("bits", "tile_cols"), matrices.UNIFORM)
def test_every_code_is_read_from_its_own_place(bits: int, tile_cols: int) -> None:
    """With one activation of 1 the product is one column of codes; with as many matrices as codes, every code is in every place once."""
    base = np.arange(16)[:, None] + 3 * np.arange(64)
    ones, zeros = np.ones((16, 1), np.uint8), np.zeros((16, 1), np.uint8)
    sides = {"scales": tiles.pack_scales(ones), "row_scale": np.ones(16, np.float16), "zeros": tiles.pack_zeros(zeros, bits)}
    columns = np.eye(64, dtype=np.int8)
    for turn in range(1 << bits):
        codes = ((base + turn) % (1 << bits)).astype(np.uint8)
        matrix = uniform({**sides, "codes": tiles.pack_tiles(codes, bits, tile_cols)}, 16, 64, bits, tile_cols, 64, False, 8)
        assert_same_bits(native_int8(matrix, columns), codes.T.astype(np.float32).reshape(-1))
        for column in range(turn % 5, 64, 1 if bits < 4 else 16 if bits == 8 else 5):
            assert_same_bits(native_int8(matrix, one_hot(column)), codes[:, column].astype(np.float32))


@pytest.mark.parametrize(("bits", "group_rows"), matrices.CODEBOOKS)
def test_every_table_and_entry_is_read_from_its_own_place(bits: int, group_rows: int) -> None:
    entries, tables = 1 << bits, 16 // group_rows
    codebooks = (np.arange(2 * tables * entries) * 37 % 128).reshape(tables, 2, entries).astype(np.uint8)
    columns = np.eye(64, dtype=np.int8)
    for turn in range(entries):
        codes = ((np.arange(16)[:, None] + 3 * np.arange(64) + turn) % entries).astype(np.uint8)
        arrays = {"codes": tiles.pack_tiles(codes, bits, 32), "codebooks": tiles.pack_codebooks(codebooks, group_rows)}
        matrix = PackedTensor(
            Packing(f"codebook{bits}.t16x32", (16, 64), {"group_rows": group_rows, "rank": 0, "shift": 0}),
            {**arrays, "row_scale": np.ones(16, np.float16)},
        )
        want = codebooks[np.arange(16)[:, None] // group_rows, np.arange(64) // 32, codes].astype(np.float32) - 64
        assert_same_bits(native_int8(matrix, columns), want.T.reshape(-1))
        for column in range(64):
            assert_same_bits(native_int8(matrix, one_hot(column)), want[:, column].copy())


@pytest.mark.parametrize("bits", range(4, 9))
def test_every_pair_is_read_from_its_own_place(bits: int) -> None:
    codebooks = np.random.default_rng(bits).integers(0, 128, (1, 1 << bits, 2), dtype=np.uint8)
    columns = np.eye(64, dtype=np.int8)
    for turn in range(1 << bits):
        codes = ((np.arange(16)[:, None] + 3 * np.arange(32) + turn) % (1 << bits)).astype(np.uint8)
        arrays = {"codes": tiles.pack_tiles(codes, bits, 32), "codebooks": tiles.pack_pair_codebooks(codebooks)}
        matrix = PackedTensor(
            Packing(f"pairs{bits}.t16x32", (16, 64), {"group_rows": 16}), {**arrays, "row_scale": np.ones(16, np.float16)}
        )
        want = codebooks[0, codes].reshape(16, 64).astype(np.float32) - 64
        assert_same_bits(native_int8(matrix, columns), want.T.reshape(-1))
        for column in range(turn % 7, 64, 7):
            assert_same_bits(native_int8(matrix, one_hot(column)), want[:, column].copy())


@pytest.mark.parametrize("rank", range(1, 9))
def test_compressed_centroids_follow_their_definition_to_both_ends(rank: int) -> None:
    """Coefficients and bases at their ends and every shift: sums of 2^17 and centroids clamped on both sides."""
    for bits, group_rows in matrices.CODEBOOKS:
        for shift in range(15):
            matrix = matrices.codebook(32, 96, bits, group_rows, rank, shift)
            rng = np.random.default_rng(shift)
            ends = {name: rng.choice(np.array([-128, 127], np.int8), len(matrix.arrays[name])) for name in ("coefficients", "basis")}
            for arrays in ({}, ends):
                check(replace(matrix, arrays={**matrix.arrays, **arrays}), vectors(1, 96))


@pytest.mark.parametrize("activation", [127, -127, -128])
def test_the_largest_products_do_not_saturate(activation: int) -> None:
    for count in (1, 8, 11):
        q = np.full((count, 128), activation, np.int8)
        for bits, tile_cols in matrices.UNIFORM:
            for code in (0, (1 << bits) - 1):
                for zero in (0, (1 << bits) - 1):
                    codes, sides = np.full((32, 128), code, np.uint8), np.full((32, 128 // tile_cols), zero, np.uint8)
                    arrays = {"codes": tiles.pack_tiles(codes, bits, tile_cols), "zeros": tiles.pack_zeros(sides, bits)}
                    arrays |= {"scales": np.full(sides.size, 255, np.uint8), "row_scale": np.ones(32, np.float16)}
                    matrix = uniform(arrays, 32, 128, bits, tile_cols, tile_cols, False, 8)
                    # Every partial sum is a whole multiple of 64 * 255, and below 2^24 of them: exact in float32.
                    want = np.full(32 * count, 255 * 128 * (code - zero) * activation, np.float32) + 0
                    assert_same_bits(native_int8(matrix, q), want)
        for centroid in (0, 64, 127):
            want = np.full(32 * count, 128 * (centroid - 64) * activation, np.float32) + 0
            for bits, group_rows in matrices.CODEBOOKS:
                matrix = matrices.codebook(32, 128, bits, group_rows)
                arrays = {"codebooks": np.full_like(matrix.arrays["codebooks"], centroid), "row_scale": np.ones(32, np.float16)}
                assert_same_bits(native_int8(replace(matrix, arrays={**matrix.arrays, **arrays}), q), want)
            for bits in range(4, 9):
                matrix = matrices.pairs(32, 128, bits)
                arrays = {"codebooks": np.full_like(matrix.arrays["codebooks"], centroid), "row_scale": np.ones(32, np.float16)}
                assert_same_bits(native_int8(replace(matrix, arrays={**matrix.arrays, **arrays}), q), want)


def test_every_finite_float16_is_decoded_exactly() -> None:
    """As row_scale, as scales and as dense values; subnormals and both zeros among them."""
    halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    rows = len(halves)
    ones = np.ones((rows, 1), np.uint8)
    arrays = {"codes": tiles.pack_tiles(5 * ones.repeat(64, axis=1), 3, 64)}
    by_row = uniform({**arrays, "scales": ones[:, 0], "row_scale": halves}, rows, 64, 3, 64, 64, True, 8)
    assert_same_bits(native_int8(by_row, one_hot(0)), halves.astype(np.float32))
    by_group = uniform({**arrays, "scales": halves}, rows, 64, 3, 64, 64, True, 16)
    assert_same_bits(native_int8(by_group, one_hot(0)), halves.astype(np.float32) + 0)  # y starts at +0
    dense = PackedTensor(Packing("dense.f16", (rows, 1)), {"values": halves})
    for got in native(dense, np.ones((1, 1), np.float32)).values():
        np.testing.assert_array_equal(got[0], halves.astype(np.float32))


@pytest.mark.parametrize("offset", [1, 2, 4, 31, 63])
def test_arrays_of_a_file_and_codes_may_be_at_any_address(offset: int) -> None:
    """Arrays of 4-byte numbers that are not part of a file must be aligned, and are refused otherwise."""
    for matrix in matrices.every_layout(35, 100):
        moved = replace(matrix, arrays={name: at_offset(array, offset) for name, array in matrix.arrays.items()})
        held = moved.native(_native)
        x = np.zeros((3, 128), np.float32)
        x[:, :100] = vectors(3, 100)
        q, scale, minus_sum = np.empty(3 * 128, np.int8), np.empty(6, np.float32), np.empty(12, np.int32)
        _native.quantize_activations(x.reshape(-1), 3, 100, q, scale, minus_sum)
        inputs = [at_offset(q, offset), *(at_offset(each, offset // 4 * 4) for each in (scale, minus_sum, x.reshape(-1)))]
        for count in (1, 3):
            got = on_every_body(lambda out: _native.product(held, *inputs, count, out, 35, 0, 35), 35 * count)  # noqa: B023
            assert_same_bits(got, matrix.product(x[:count, :100]).reshape(-1))


@pytest.mark.parametrize(("argument", "name"), [(1, "scale"), (2, "minus_sum")])
def test_numbers_that_are_not_aligned_are_refused(argument: int, name: str) -> None:
    arguments: list[Any] = [*int8_parts(np.zeros((1, 64), np.int8)), None, 1, np.zeros(16, np.float32), 16, 0, 16]
    arguments[argument] = at_offset(arguments[argument], 2)
    with pytest.raises(ValueError, match=rf"\[product\] {name} must be aligned as its type is"):
        _native.product(UNIFORM.native(_native), *arguments)


def test_the_guard_band_notices_a_write_outside() -> None:
    with pytest.raises(AssertionError, match="wrote outside"):
        on_every_body(lambda out: out.base.__setitem__(0, 1.0), 16)


UNIFORM = matrices.uniform(16, 64, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"codec": "trellis"},
            "codec must be one of uniform, codebook, pairs, polar, columnwise, sections, dense, bfloat, rows; got trellis",
        ),
        ({"bits": 9}, "bits must be 1 to 8; got 9"),
        ({"bits": -1}, r"bits must be a whole number below 2\*\*31; got -1"),
        ({"tile_cols": 48}, "tile_cols must be 32 or 64; got 48"),
        ({"group_size": 96}, "group_size must be a multiple of tile_cols"),
        ({"group_size": 0}, "group_size must be 1 to 2147483647; got 0"),
        ({"scale_bits": 16}, "scales must hold 32 values; got 16"),
        ({"rows": 17}, r"codes must hold 768 values; got 384"),
        ({"rows": 1 << 31}, r"rows and cols must be 1 to 2\*\*31 - 1"),
        ({"rows": 1 << 30, "cols": 1 << 10}, r"a matrix must have fewer than 2\*\*40 weights"),
        ({"arrays": {**UNIFORM.arrays, "codes": np.zeros(384, np.int8)}}, "codes must be uint8; got int8"),
        ({"arrays": {**UNIFORM.arrays, "codes": np.zeros((2, 192), np.uint8)}}, "codes must be flat and contiguous"),
        ({"arrays": {**UNIFORM.arrays, "codes": np.zeros(768, np.uint8)[::2]}}, "codes must be flat and contiguous"),
        ({"arrays": {**UNIFORM.arrays, "zeros": np.zeros(5, np.uint8)}}, "zeros must hold 6 values; got 5"),
        ({"arrays": {"codes": UNIFORM.arrays["codes"]}}, "scales is missing"),
        ({"codec": "codebook", "bits": 4, "group_rows": 2}, r"2\*\*bits must be at most 4 \* group_rows"),
        ({"codec": "codebook", "group_rows": 2, "rank": 9}, "rank must be 0 to 8; got 9"),
        ({"codec": "pairs", "bits": 6, "group_rows": 24}, "group_rows must be a multiple of 16"),
        ({"codec": "pairs", "bits": 3, "group_rows": 16}, "bits must be 4 to 8; got 3"),
        ({"codec": "polar", "bits": 19, "direction_bits": 16}, "bits must be 16 or 17 or 18 or 20; got 19"),
        ({"codec": "polar", "bits": 18, "direction_bits": 13}, "direction_bits must be 1 to 4 less than bits"),
        ({"codec": "dense", "bits": 16}, "values is missing"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"\[Matrix\] {message}"):
        _native.Matrix(**matrices.fields(UNIFORM, **changes))


PARTS = (np.zeros(64, np.int8), np.zeros(1, np.float32), np.zeros(2, np.int32), None, 1, np.zeros(16, np.float32), 16, 0, 16)


@pytest.mark.parametrize(
    ("argument", "value", "message"),
    [
        (0, np.zeros(60, np.int8), "q must hold 64 values; got 60"),
        (0, None, "x must be given where q is not"),
        (1, np.zeros(1), "scale must be float32; got float64"),
        (2, None, "q needs scale and minus_sum"),
        (4, 0, "count must be 1 to 65535"),
        (4, 2, "q must hold 128 values; got 64|out must hold"),
        (5, np.zeros(15, np.float32), "out must hold"),
        (6, 15, "out must hold"),
        (7, 8, "rows must begin and end at multiples of 16"),
        (8, 17, "rows must begin and end at multiples of 16"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(argument: int, value: Any, message: str) -> None:
    arguments = list(PARTS)
    arguments[argument] = value
    with pytest.raises(ValueError, match=rf"\[product\] ({message})"):
        _native.product(UNIFORM.native(_native), *arguments)


@pytest.mark.parametrize("out", [np.zeros(16), np.zeros(32, np.float32)[::2], np.zeros((16, 1), np.float32)])
def test_an_output_that_would_be_copied_is_refused(out: NDArray[Any]) -> None:
    with pytest.raises(TypeError):
        _native.product(UNIFORM.native(_native), *PARTS[:5], out, *PARTS[6:])


def test_a_matrix_keeps_its_arrays_alive() -> None:
    matrix = matrices.uniform(64, 256, 3)
    x = vectors(1, 256)
    want = matrix.product(x)
    held = replace(matrix, arrays={name: array.copy() for name, array in matrix.arrays.items()}).native(_native)
    junk = [np.full(1 << 14, 255, np.uint8) for _ in range(64)]  # would take the place of freed arrays
    q, scale, minus_sum = np.empty(256, np.int8), np.empty(4, np.float32), np.empty(8, np.int32)
    _native.quantize_activations(x.reshape(-1), 1, 256, q, scale, minus_sum)
    out = np.empty(64, np.float32)
    _native.product(held, q, scale, minus_sum, None, 1, out, 64, 0, 64)
    assert np.array_equal(out, want[0]) and len(junk) == 64


def test_numbers_are_narrowed_where_that_is_exact_and_only_there() -> None:
    """float16 first; bfloat16 for what is larger or finer; float32 for all others. Signs of zeros stay."""
    halves = np.array([0.0, -0.0, 1.5, -65504.0, 2.0**-24], np.float32)
    wide = np.array([-0.0, 2.0**127, -1.5 * 2.0**-120, 0.0, 1.0], np.float32)
    for values, dtype in ((halves, np.float16), (wide, np.uint16), (np.array([1.5, 1 + 2.0**-20], np.float32), np.float32)):
        narrow = narrow_exactly(values)
        assert narrow.dtype == dtype
        back = widen_bfloat(narrow) if dtype == np.uint16 else narrow.astype(np.float32)
        np.testing.assert_array_equal(back.view(np.uint32), values.view(np.uint32))
