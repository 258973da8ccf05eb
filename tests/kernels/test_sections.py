"""Products with columns of several widths: every native body gives the bits of kernels/gemv_sections.py, however columns are skipped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rwkvquant.codecs import PackedTensor, Packing
from tests.formats import examples
from tests.kernels import matrices
from tests.kernels.guarded import at_offset
from tests.kernels.test_columnwise import WAYS, _native, check, native, squared_relu

MIXES = [(2, 3, 4, 6), (2,), (6,), (3, 6), (4, 6), (2, 4)]


@pytest.mark.parametrize("int8", [True, False], ids=["rounded", "float32"])
@pytest.mark.parametrize("widths", MIXES, ids=str)
def test_every_mix_of_widths_and_every_number_of_pieces(widths: tuple[int, ...], int8: bool) -> None:
    for rows in (1, 100, 130, 384, 512, 700):
        check(matrices.sections(rows, 70, widths), squared_relu(2, 70, 0.5), int8=int8)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("density", [0, 0.01, 0.05, 0.125, 0.3, 0.9, 1])
def test_every_density_gives_the_bits_of_the_definition(density: float, way: str) -> None:
    """Sections begin and end inside blocks of 1024 columns, and may have no column that is not zero."""
    for cols in (1, 2, 63, 65, 1025, 2600):
        for count in (1, 5, 17):
            check(matrices.sections(200, cols), squared_relu(count, cols, density), way=WAYS[way])


@pytest.mark.parametrize("way", WAYS)
def test_rows_may_be_cut_anywhere_at_multiples_of_16(way: str) -> None:
    matrix, x = matrices.sections(700, 150), squared_relu(3, 150, 0.4)
    for cuts in ((16,), (512,), (48, 128, 512, 528)):
        check(matrix, x, way=WAYS[way], cuts=cuts)
        check(matrix, x, int8=False, cuts=cuts)


def test_a_column_is_multiplied_with_its_own_activation() -> None:
    """With one activation at a time the product is one column of the weights, whatever the order in the file."""
    tensor = examples.sections(np.random.default_rng(0), (40, 30))
    ones = np.ones(30, np.float16)
    matrix = PackedTensor.pack(replace(tensor, col_scale=ones))
    for isa, got in native(matrix, np.eye(30, dtype=np.float32), int8=False).items():
        assert np.array_equal(got, replace(tensor, col_scale=ones).decode().T), isa


def test_the_largest_products_do_not_overflow() -> None:
    """2^17 columns of 6 bits, each stored twice, all activations and all codes at their ends."""
    cols = 1 << 17
    for code, number in ((0, -32), (255, 31)):
        arrays = {
            "codes": np.full(128 * cols * 6 // 8, code, np.uint8),
            "widths": np.full(cols, 6, np.uint8),
            "tables": np.zeros(64, np.int8),
            "row_scale": np.ones(32, np.float16),
            "col_scale": np.ones(cols, np.float16),
        }
        matrix = PackedTensor(Packing("sections.r512", (16, cols), {"cols2": 0, "cols3": 0, "cols4": 0, "cols6": cols}), arrays)
        for way in WAYS.values():
            for isa, got in native(matrix, np.ones((2, cols), np.float32), way=way).items():
                np.testing.assert_allclose(got, np.float32(number) * cols, rtol=1e-6, err_msg=isa)


def test_vectors_of_every_density_share_a_product() -> None:
    matrix = matrices.sections(530, 2100)
    x = np.concatenate([squared_relu(1, 2100, density, seed) for seed, density in enumerate([0, 1, 0.2, 0.01, 0.5] * 8)])
    for way in WAYS.values():
        check(matrix, x, way=way)


def test_negative_tiny_and_huge_activations_are_rounded_as_the_definition_does() -> None:
    matrix = matrices.sections(130, 90)
    rng = np.random.default_rng(0)
    for scale in (1e-45, 1e-38, 1, 5e37):
        x = (rng.standard_normal((2, 90)) * scale).astype(np.float32)
        check(matrix, x)
        check(matrix, np.abs(x), int8=False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_number_that_is_not_finite_is_seen_in_every_row_of_its_vector(bad: float) -> None:
    matrix, x = matrices.sections(200, 100), squared_relu(3, 100, 0.3)
    x[1, 40] = bad
    for isa, got in native(matrix, x).items():
        assert not np.isfinite(got[1]).any(), isa
        np.testing.assert_array_equal(got[[0, 2]], matrix.product(x[[0, 2]]), err_msg=isa)


@pytest.mark.parametrize("offset", [1, 31])
def test_arrays_may_be_at_any_address(offset: int) -> None:
    matrix = matrices.sections(300, 100)
    moved = replace(matrix, arrays={name: at_offset(array, offset) for name, array in matrix.arrays.items()})
    for way in WAYS.values():
        check(moved, squared_relu(6, 100, 0.4), way=way)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"way": 3}, "way must be 0 to 2; got 3"),
        ({"cols": 131073}, "a matrix stored by columns must have at most 131072 columns"),
        ({"cols": 65}, "widths must hold 65 values; got 64"),
        ({"rows": 513}, "codes must hold"),
    ],
)
def test_a_matrix_that_does_not_fit_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _native.Matrix(**matrices.fields(matrices.sections(512, 64), **changes))


@pytest.mark.parametrize("width", [0, 1, 5, 7, 255])
def test_a_width_that_no_column_can_have_is_refused(width: int) -> None:
    form = matrices.fields(matrices.sections(512, 64))
    form["arrays"]["widths"] = np.r_[form["arrays"]["widths"][:63], np.uint8(width)]
    with pytest.raises(ValueError, match="widths must be 2, 3, 4 or 6"):
        _native.Matrix(**form)
