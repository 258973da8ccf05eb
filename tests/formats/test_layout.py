"""A logical tensor comes back from its arrays as it went in, and its size is known before it exists."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from rwkvquant.config import GridConfig
from rwkvquant.errors import FormatError
from rwkvquant.formats import layout
from rwkvquant.formats.layout import TensorParams, choose_layout, describe, pack, parse_layout, unpack
from rwkvquant.formats.qtensor import DenseTensor, QTensor
from tests.formats import examples

GRIDS = [
    GridConfig(bits, group_size, symmetric, scale_bits)
    for bits, group_size, symmetric, scale_bits in itertools.product(range(1, 9), (32, 64, 96, 128), (False, True), (8, 16))
]
SHAPES = [(1, 1), (1, 64), (8, 32), (15, 65), (16, 64), (17, 31), (33, 200), (48, 192)]


def assert_same(left: QTensor, right: QTensor) -> None:
    assert type(left) is type(right)
    for name, value in vars(left).items():
        other = vars(right)[name]
        if isinstance(value, np.ndarray):
            assert value.dtype == other.dtype and np.array_equal(value, other), name
        else:
            assert value == other, name
    assert np.array_equal(left.decode(), right.decode())


def stored(arrays: dict[str, np.ndarray]) -> int:
    return sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("rows_layout", [False, True], ids=["tiles", "rows"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_uniform_tensors_come_back_and_their_size_was_foretold(shape: tuple[int, int], rows_layout: bool) -> None:
    rng = np.random.default_rng(1)
    for grid in GRIDS:
        tensor = examples.uniform(rng, shape, grid)
        chosen = choose_layout("uniform", grid.bits, shape, grid.group_size, rows_layout)
        layout_id, arrays = pack(tensor, chosen)
        assert layout_id == chosen
        assert_same(unpack(layout_id, describe(tensor), arrays), tensor)
        assert stored(arrays) == layout.stored_bytes(grid, shape, rows_layout)
        assert all(array.ndim == 1 and array.nbytes % 64 == 0 for array in arrays.values())


@pytest.mark.parametrize("bits", range(1, 9))
def test_both_tiles_hold_the_same_tensor(bits: int) -> None:
    tensor = examples.uniform(np.random.default_rng(2), (20, 130), GridConfig(bits, 64))
    for tile in ("t16x64", "t16x32", "rows"):
        assert_same(unpack(f"uniform{bits}.{tile}", describe(tensor), pack(tensor, f"uniform{bits}.{tile}")[1]), tensor)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_codebook_and_dense_tensors_come_back(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    for tensor in (examples.codebook(rng, shape), examples.dense(rng, shape), examples.dense(rng, (*shape, 2), np.float32)):
        layout_id, arrays = pack(tensor)
        assert_same(unpack(layout_id, describe(tensor), arrays), tensor)
        if isinstance(tensor, DenseTensor):
            assert stored(arrays) == layout.stored_bytes_dense(tensor.shape, 8 * tensor.values.itemsize)
        else:
            assert stored(arrays) == layout.stored_bytes_codebook(shape)


def test_known_sizes() -> None:
    bits = {grid: 8 * layout.stored_bytes(grid, (2048, 2048)) / 2048**2 for grid in GRIDS}
    assert bits[GridConfig(3, 64, symmetric=True, scale_bits=16)] == 3 + 16 / 64
    assert bits[GridConfig(3, 64, symmetric=False, scale_bits=16)] == 3 + 19 / 64
    assert bits[GridConfig(3, 32, symmetric=False, scale_bits=16)] == 3 + 19 / 32
    assert bits[GridConfig(3, 64)] == 3 + 11 / 64 + 16 / 2048
    assert 8 * layout.stored_bytes_codebook((2048, 2048)) / 2048**2 == 4 + 16 / 2048
    assert layout.stored_bytes(GridConfig(3, 64), (2048, 32)) == 2048 * 12 + 2048 + 2 * 2048 + 2048 * 3 // 8  # no padding at rank 32
    assert layout.stored_bytes_dense((5,)) == 64


def test_tiles_of_64_columns_where_nothing_is_wasted() -> None:
    assert choose_layout("uniform", 3, (16, 64)) == "uniform3.t16x64"
    assert choose_layout("uniform", 3, (16, 33)) == "uniform3.t16x64"  # two halves, the second short
    assert choose_layout("uniform", 3, (16, 32)) == choose_layout("uniform", 3, (16, 96)) == "uniform3.t16x32"
    assert choose_layout("uniform", 3, (16, 64), group_size=32) == "uniform3.t16x32"  # a group would end inside the tile
    assert choose_layout("uniform", 3, (16, 256), group_size=96) == "uniform3.t16x32"
    assert choose_layout("uniform", 8, (16, 64), rows_layout=True) == "uniform8.rows"
    assert choose_layout("codebook", 3, (16, 64)) == "codebook3.t16x32"
    assert choose_layout("dense", 32, (5,)) == "dense.f32"


@pytest.mark.parametrize(
    "layout_id",
    ["uniform3", "uniform9.t16x64", "uniform0.rows", "uniform3.t16x16", "codebook4.t16x32", "codebook3.rows", "codebook3.t16x64",
     "dense.bf16", "dense3.f16", "uniform.t16x64", "trellis3.t16x64", "uniform3.t16x64\n", " dense.f16", "", "uniform³.rows"],
)  # fmt: skip
def test_unknown_layouts_are_refused(layout_id: str) -> None:
    with pytest.raises(FormatError, match="is not a layout this version reads"):
        parse_layout(layout_id)


@pytest.mark.parametrize(
    ("layout_id", "params", "rule"),
    [
        ("uniform3.t16x64", TensorParams((16, 64), 32, False, 8), "multiple of 64; got 32"),
        ("uniform3.t16x32", TensorParams((16, 64), 48, False, 8), "multiple of 32; got 48"),
        ("uniform3.rows", TensorParams((16, 64), 0, False, 8), "multiple of 32; got 0"),
        ("uniform3.rows", TensorParams((16, 64), 1 << 40, False, 8), "multiple of 32"),
        ("uniform3.t16x32", TensorParams((16, 64), 64, False, 4), "scale_bits"),
        ("uniform3.t16x32", TensorParams((16, 64, 2), 64, False, 8), "2 axes"),
        ("codebook3.t16x32", TensorParams((16,)), "2 axes"),
        ("dense.f16", TensorParams(()), "at most 4 axes"),
        ("dense.f16", TensorParams((1, 1, 1, 1, 1)), "at most 4 axes"),
        ("dense.f16", TensorParams((0, 5)), "axes of at least 1"),
    ],
)
def test_shapes_and_groups_that_break_the_rules_are_refused(layout_id: str, params: TensorParams, rule: str) -> None:
    with pytest.raises(FormatError, match=rule):
        layout.expected_arrays(layout_id, params)


def test_a_group_size_that_fits_no_tile_is_refused_before_any_work() -> None:
    with pytest.raises(FormatError, match=r"group_size .* got 48\. Try group_size=64"):
        layout.stored_bytes(GridConfig(3, 48), (16, 96))


def test_a_tensor_goes_into_no_layout_but_its_own() -> None:
    rng = np.random.default_rng(4)
    uniform, codebook, dense = (
        examples.uniform(rng, (16, 64), GridConfig(3, 64)),
        examples.codebook(rng, (16, 64)),
        examples.dense(rng, (16, 64)),
    )
    for tensor, wrong in ((uniform, "uniform4.t16x64"), (uniform, "codebook3.t16x32"), (codebook, "uniform3.t16x32"), (dense, "dense.f32")):
        with pytest.raises(FormatError, match=r"does not hold|group_size"):
            pack(tensor, wrong)


def test_arrays_that_contradict_the_shape_are_refused_before_anything_is_allocated() -> None:
    tensor = examples.uniform(np.random.default_rng(5), (16, 64), GridConfig(3, 64))
    layout_id, arrays = pack(tensor)
    huge = TensorParams((1 << 30, 1 << 30), 64, False, 8)
    assert math.prod(huge.shape) > 1 << 50
    with pytest.raises(FormatError, match=r"codes of a uniform3\.t16x64 tensor of shape"):
        unpack(layout_id, huge, arrays)
    with pytest.raises(FormatError, match="has the arrays codes, scales, row_scale, zeros; got codes"):
        unpack(layout_id, describe(tensor), {"codes": arrays["codes"]})
    with pytest.raises(FormatError, match=r"scales of .* must be 64 x uint8; got 64 x float16"):
        unpack(layout_id, describe(tensor), arrays | {"scales": arrays["scales"].astype(np.float16)})
