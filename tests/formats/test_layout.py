"""A logical tensor comes back from its arrays unchanged, and its size is known before it exists."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.codecs import (
    CodebookConfig,
    CodebookFactors,
    DenseConfig,
    GridConfig,
    PackedTensor,
    Packing,
    PairCodebookTensor,
    PairConfig,
    QTensor,
    codec_of_layout,
)
from rwkvquant.errors import FormatError
from tests.formats import examples

GRIDS = [
    GridConfig(bits, group_size, symmetric, scale_bits)
    for bits, group_size, symmetric, scale_bits in itertools.product(range(1, 9), (32, 64, 96, 128), (False, True), (8, 16))
]
CODEBOOKS = [  # bits, group_rows: all that a 128-bit lane can look up
    *((2, group_rows) for group_rows in (2, 4, 8, 16)),
    *((3, group_rows) for group_rows in (2, 4, 8, 16)),
    *((4, group_rows) for group_rows in (4, 8, 16)),
]
SHAPES = [(1, 1), (1, 64), (8, 32), (15, 65), (16, 64), (17, 31), (33, 200), (48, 192)]


def assert_same(left: QTensor, right: QTensor) -> None:
    assert type(left) is type(right)
    for name, value in vars(left).items():
        other = vars(right)[name]
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and np.array_equal(value, other), name
        elif isinstance(value, CodebookFactors):
            assert value.coefficients.dtype == other.coefficients.dtype == value.basis.dtype == other.basis.dtype == np.int8
            assert np.array_equal(value.coefficients, other.coefficients) and np.array_equal(value.basis, other.basis)
            assert value.shift == other.shift
        else:
            assert value == other, name
    assert np.array_equal(left.decode(), right.decode())


def stored(packed: PackedTensor) -> int:
    return sum(array.nbytes for array in packed.arrays.values())


@pytest.mark.parametrize("rows_layout", [False, True], ids=["tiles", "rows"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_uniform_tensors_come_back_and_their_size_is_known_before(shape: tuple[int, int], rows_layout: bool) -> None:
    rng = np.random.default_rng(1)
    for grid in GRIDS:
        tensor = examples.uniform(rng, shape, grid)
        packed = PackedTensor.pack(tensor, grid.layout(shape, rows_layout))
        assert packed.packing == grid.packing(shape, rows_layout)
        assert_same(packed.unpack(), tensor)
        assert stored(packed) == grid.stored_bytes(shape, rows_layout)
        assert all(array.ndim == 1 and array.nbytes % 64 == 0 for array in packed.arrays.values())


@pytest.mark.parametrize("bits", range(1, 9))
def test_both_tiles_hold_the_same_tensor(bits: int) -> None:
    tensor = examples.uniform(np.random.default_rng(2), (20, 130), GridConfig(bits, 64))
    for tile in ("t16x64", "t16x32", "rows"):
        assert_same(PackedTensor.pack(tensor, f"uniform{bits}.{tile}").unpack(), tensor)


shapes = st.tuples(st.integers(1, 70), st.integers(1, 200))


@settings(deadline=None, max_examples=150)
@given(shapes, st.sampled_from(CODEBOOKS), st.integers(0, 8), st.integers(0, 2**32 - 1))
def test_codebooks_come_back_and_their_size_is_known_before(shape: tuple[int, int], table: tuple[int, int], rank: int, seed: int) -> None:
    bits, group_rows = table
    tensor = examples.codebook(np.random.default_rng(seed), shape, bits, group_rows, rank)
    packing = CodebookConfig(bits, group_rows).packing(shape)
    size = come_back(tensor, f"codebook{bits}.t16x32")
    assert size == dataclasses.replace(packing, values={**packing.values, "rank": rank}).stored_bytes
    assert rank >= 2**bits or size == CodebookConfig(bits, group_rows, rank).stored_bytes(shape)


@settings(deadline=None)
@given(shapes, st.integers(2, 4), st.integers(0, 2**32 - 1))
def test_codebooks_of_vectors_come_back_and_their_size_is_known_before(shape: tuple[int, int], bits: int, seed: int) -> None:
    tensor = examples.vector_codebook(np.random.default_rng(seed), shape, bits)
    assert come_back(tensor, f"codebook{bits}.rows") == CodebookConfig(bits, 1).stored_bytes(shape, rows=True)


@settings(deadline=None)
@given(shapes, st.integers(4, 8), st.sampled_from([16, 32, 48, 64, 4096]), st.integers(0, 2**32 - 1))
def test_pairs_come_back_and_their_size_is_known_before(shape: tuple[int, int], bits: int, group_rows: int, seed: int) -> None:
    tensor = examples.pairs(np.random.default_rng(seed), shape, bits, group_rows)
    assert come_back(tensor, f"pairs{bits}.t16x32") == PairConfig(bits, group_rows).stored_bytes(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_dense_tensors_come_back_and_their_size_is_known_before(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    assert come_back(examples.dense(rng, shape), "dense.f16") == DenseConfig().stored_bytes(shape)
    assert come_back(examples.dense(rng, (*shape, 2), np.float32), "dense.f32") == DenseConfig(32).stored_bytes((*shape, 2))


def come_back(tensor: QTensor, expected_id: str) -> int:
    """The bytes of a tensor's arrays, which give the same tensor again."""
    packed = PackedTensor.pack(tensor)
    assert packed.layout == expected_id
    assert all(array.ndim == 1 and array.nbytes % 64 == 0 for array in packed.arrays.values())
    assert_same(packed.unpack(), tensor)
    return stored(packed)


def test_known_sizes() -> None:
    bits = {grid: 8 * grid.stored_bytes((2048, 2048)) / 2048**2 for grid in GRIDS}
    assert bits[GridConfig(3, 64, symmetric=True, scale_bits=16)] == 3 + 16 / 64
    assert bits[GridConfig(3, 64, symmetric=False, scale_bits=16)] == 3 + 19 / 64
    assert bits[GridConfig(3, 32, symmetric=False, scale_bits=16)] == 3 + 19 / 32
    assert bits[GridConfig(3, 64)] == 3 + 11 / 64 + 16 / 2048
    assert 8 * CodebookConfig(3, 2).stored_bytes((2048, 2048)) / 2048**2 == 4 + 16 / 2048
    assert CodebookConfig(2, 8).stored_bytes((2048, 2048)) * 8 / 2048**2 == 2 + 4 * 8 / (8 * 32) + 16 / 2048
    assert CodebookConfig(4, 4, 3).stored_bytes((2048, 2048)) == 2048 * 1024 + 512 * 64 * 3 + 64 + 4096  # the basis: 48 padded
    assert CodebookConfig(3, 1).stored_bytes((1, 2048), rows=True) == 768 + 32 * 8 + 64  # codes, tables, one scale padded
    assert PairConfig(6, 512).stored_bytes((2048, 2048)) == 2048 * 1024 * 6 // 8 + 4 * 128 + 4096
    assert PairConfig(8, 16).stored_bytes((17, 65)) == 32 * 64 + 2 * 512 + 64  # 33 codes are two tiles, 17 rows two blocks
    assert GridConfig(3, 64).stored_bytes((2048, 32)) == 2048 * 12 + 2048 + 2 * 2048 + 2048 * 3 // 8  # no padding at rank 32
    assert DenseConfig().stored_bytes((5,)) == 64


def test_tiles_of_64_columns_where_nothing_is_wasted() -> None:
    assert GridConfig(3).layout((16, 64)) == "uniform3.t16x64"
    assert GridConfig(3).layout((16, 33)) == "uniform3.t16x64"  # two halves, the second short
    assert GridConfig(3).layout((16, 32)) == GridConfig(3).layout((16, 96)) == "uniform3.t16x32"
    assert GridConfig(3, 32).layout((16, 64)) == "uniform3.t16x32"  # a group would end inside the tile
    assert GridConfig(3, 96).layout((16, 256)) == "uniform3.t16x32"
    assert GridConfig(8).layout((16, 64), rows=True) == "uniform8.rows"
    assert CodebookConfig(3).layout((16, 64)) == "codebook3.t16x32"
    assert CodebookConfig(2, 1).layout((1, 64), rows=True) == "codebook2.rows"
    assert PairConfig(7).layout((16, 64)) == "pairs7.t16x32"
    assert DenseConfig(32).layout((5,)) == "dense.f32"


@pytest.mark.parametrize(
    "layout_id",
    ["uniform3", "uniform9.t16x64", "uniform0.rows", "uniform3.t16x16", "codebook1.t16x32", "codebook5.rows", "codebook3.t16x64",
     "pairs3.t16x32", "pairs9.t16x32", "pairs4.rows", "pairs8.t16x64", "pairs.t16x32", "codebook.rows", "codebook３.rows", "dense.bf16",
     "dense3.f16", "uniform.t16x64", "trellis3.t16x64", "uniform3.t16x64\n", " dense.f16", "", "uniform³.rows"],
)  # fmt: skip
def test_unknown_layouts_are_refused(layout_id: str) -> None:
    with pytest.raises(FormatError, match="is not a layout this version reads"):
        codec_of_layout(layout_id, stored=True)


@pytest.mark.parametrize(
    ("layout_id", "shape", "values", "rule"),
    [
        ("uniform3.t16x64", (16, 64), {"group_size": 32, "symmetric": False, "scale_bits": 8}, "multiple of 64; got 32"),
        ("uniform3.t16x32", (16, 64), {"group_size": 48, "symmetric": False, "scale_bits": 8}, "multiple of 32; got 48"),
        ("uniform3.rows", (16, 64), {"group_size": 0, "symmetric": False, "scale_bits": 8}, "multiple of 32; got 0"),
        ("uniform3.rows", (16, 64), {"group_size": 1 << 40, "symmetric": False, "scale_bits": 8}, "multiple of 32"),
        ("uniform3.t16x32", (16, 64), {"group_size": 64, "symmetric": False, "scale_bits": 4}, "scale_bits"),
        ("uniform3.t16x32", (16, 64, 2), {"group_size": 64, "symmetric": False, "scale_bits": 8}, "2 axes"),
        ("codebook3.t16x32", (16,), {}, "2 axes"),
        ("codebook3.t16x32", (16, 64), {}, "group_rows of codebook3.t16x32 must be 2 or 4 or 8 or 16; got 0"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 1}, "must be 2 or 4 or 8 or 16; got 1"),
        ("codebook2.t16x32", (16, 64), {"group_rows": 32}, "must be 2 or 4 or 8 or 16; got 32"),
        ("codebook2.t16x32", (16, 64), {"group_rows": -2}, "must be 2 or 4 or 8 or 16; got -2"),
        ("codebook4.t16x32", (16, 64), {"group_rows": 2}, "must be 4 or 8 or 16; got 2"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 2, "rank": 9}, "rank of codebook3.t16x32 must be 0 to 8; got 9"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 2, "rank": -1}, "must be 0 to 8; got -1"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 2, "rank": 1, "shift": 15}, "rank 1 must be 0 to 14; got 15"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 2, "rank": 1, "shift": -1}, "rank 1 must be 0 to 14; got -1"),
        ("codebook3.t16x32", (16, 64), {"group_rows": 2, "shift": 1}, "rank 0 must be 0; got 1"),
        ("codebook3.rows", (1, 64), {"group_rows": 2}, "group_rows of codebook3.rows must be 1; got 2"),
        ("codebook3.rows", (1, 64), {"group_rows": 1, "rank": 1}, "rank of codebook3.rows must be 0; got 1"),
        ("codebook3.rows", (64,), {"group_rows": 1}, "2 axes"),
        ("pairs4.t16x32", (16, 64), {}, "group_rows of pairs4.t16x32 must be a multiple of 16; got 0"),
        ("pairs4.t16x32", (16, 64), {"group_rows": 8}, "must be a multiple of 16; got 8"),
        ("pairs4.t16x32", (16, 64), {"group_rows": -16}, "must be a multiple of 16; got -16"),
        ("pairs4.t16x32", (16, 64), {"group_rows": 1 << 30}, "must be a multiple of 16"),
        ("dense.f16", (), {}, "at most 4 axes"),
        ("dense.f16", (1, 1, 1, 1, 1), {}, "at most 4 axes"),
        ("dense.f16", (0, 5), {}, "axes of at least 1"),
    ],
)
def test_shapes_and_groups_that_break_the_rules_are_refused(
    layout_id: str, shape: tuple[int, ...], values: dict[str, int], rule: str
) -> None:
    missing = dict.fromkeys(codec_of_layout(layout_id).keys, 0)
    with pytest.raises(FormatError, match=rule):
        Packing(layout_id, shape, missing | values).sizes()


def test_a_group_size_that_fits_no_tile_is_refused_before_any_work() -> None:
    with pytest.raises(FormatError, match=r"group_size .* got 48\. Try group_size=64"):
        GridConfig(3, 48).stored_bytes((16, 96))


def test_a_tensor_is_packed_in_its_own_layouts_only() -> None:
    rng = np.random.default_rng(4)
    uniform, codebook, vector, pairs, dense = (
        examples.uniform(rng, (16, 64), GridConfig(3, 64)),
        examples.codebook(rng, (16, 64)),
        examples.vector_codebook(rng, (16, 64)),
        examples.pairs(rng, (16, 64)),
        examples.dense(rng, (16, 64)),
    )
    for tensor, wrong in (
        *((uniform, other) for other in ("uniform4.t16x64", "codebook3.t16x32", "dense.f16")),
        *((codebook, other) for other in ("uniform3.t16x32", "codebook2.t16x32", "codebook3.rows", "pairs4.t16x32")),
        *((vector, other) for other in ("codebook3.t16x32", "codebook4.rows", "uniform3.rows")),
        *((pairs, other) for other in ("pairs5.t16x32", "uniform4.t16x32", "codebook4.t16x32")),
        *((dense, other) for other in ("dense.f32", "pairs4.t16x32")),
    ):
        with pytest.raises(FormatError, match="does not hold"):
            PackedTensor.pack(tensor, wrong)


def test_a_codebook_that_no_lane_can_look_up_is_refused() -> None:
    for bits, group_rows in ((4, 2), (3, 1), (3, 32)):
        with pytest.raises(FormatError, match=f"group_rows of codebook{bits}"):
            PackedTensor.pack(examples.codebook(np.random.default_rng(0), (32, 64), bits, group_rows), f"codebook{bits}.t16x32")


def test_codebooks_that_are_not_those_of_their_factors_are_an_internal_error() -> None:
    tensor = examples.codebook(np.random.default_rng(0), (16, 32), rank=2)
    with pytest.raises(AssertionError, match="not those of their factors"):
        PackedTensor.pack(dataclasses.replace(tensor, codebooks=127 - tensor.codebooks))


@pytest.mark.parametrize("shift", range(15))
@pytest.mark.parametrize(("coefficient", "basis"), [(-128, -128), (127, 127), (-128, 127), (0, 127)])
def test_any_factors_give_centroids_in_range(coefficient: int, basis: int, shift: int) -> None:
    """What another writer may store: the ends of int8, added up over the largest rank."""
    packing = Packing("codebook4.t16x32", (16, 32), {"group_rows": 4, "rank": 8, "shift": shift})
    fill = {"codes": 255, "coefficients": coefficient, "basis": basis, "row_scale": 1}
    arrays = {name: np.full(count, fill[name], dtype) for name, (dtype, count) in packing.sizes().items()}
    rounded = math.floor(8 * coefficient * basis / 2**shift + 0.5)
    assert (PackedTensor(packing, arrays).decode() == max(-64, min(63, rounded))).all()


def test_an_odd_last_column_has_the_first_component() -> None:
    """2 x 3 weights as pairs, by hand: entry k of the table is (10 + k, 20 + k)."""
    books = np.stack([np.arange(10, 26), np.arange(20, 36)], axis=1).astype(np.uint8)[None]
    tensor = PairCodebookTensor(np.array([[1, 2], [0, 15]], np.uint8), 4, books, np.array([1, 2], np.float16), 3)
    packed = PackedTensor.pack(tensor)
    expected = np.array([[11, 21, 12], [10, 20, 25]]) - 64
    assert packed.decode().tolist() == [expected[0].tolist(), (2 * expected[1]).tolist()]
    assert packed.arrays["codebooks"].tolist() == [*range(10, 26), *range(20, 36)] + [0] * 32


def test_arrays_that_contradict_the_shape_are_refused_before_anything_is_allocated() -> None:
    tensor = examples.uniform(np.random.default_rng(5), (16, 64), GridConfig(3, 64))
    packed = PackedTensor.pack(tensor)
    huge = dataclasses.replace(packed.packing, shape=(1 << 30, 1 << 30))
    assert math.prod(huge.shape) > 1 << 50
    with pytest.raises(FormatError, match=r"codes of a uniform3\.t16x64 tensor of shape"):
        dataclasses.replace(packed, packing=huge).unpack()
    with pytest.raises(FormatError, match="has the arrays codes, scales, row_scale, zeros; got codes"):
        dataclasses.replace(packed, arrays={"codes": packed.arrays["codes"]}).unpack()
    with pytest.raises(FormatError, match=r"scales of .* must be 64 x uint8; got 64 x float16"):
        dataclasses.replace(packed, arrays={**packed.arrays, "scales": packed.arrays["scales"].astype(np.float16)}).unpack()
