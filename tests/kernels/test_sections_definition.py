"""The definition of products with columns of several widths (kernels/gemv_sections.py), and the sizes of what they store."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from rwkvquant.codecs import ColumnwiseTensor, PackedTensor, SectionsConfig
from rwkvquant.codecs.sections import STEPS
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.kernels.gemv_sections import SECTIONS, WIDTHS, section_table, table_of
from tests.formats import examples
from tests.kernels.test_columnwise_definition import squared_relu


@pytest.mark.parametrize("int8", [True, False])
def test_the_product_is_the_sum_of_a_product_for_each_width(int8: bool) -> None:
    """With scales that are powers of two nothing is rounded before the end, so the parts are exact."""
    tensor = examples.sections(np.random.default_rng(0), (140, 60))
    powers = {"row_scale": np.full(140, 0.5, np.float16), "col_scale": np.ones(60, np.float16)}
    tensor = dataclasses.replace(tensor, **powers)
    x = np.random.default_rng(1).integers(0, 500, (2, 60)).astype(np.float32)
    x[:, 0] = 65535  # the scale is then 1
    expected = np.zeros((2, 140), np.float32)
    for width in WIDTHS:
        columns, table = tensor.widths == width, table_of(tensor.tables, width)
        weights = 0.5 * table[tensor.codes[:, columns]].astype(np.float32)
        expected += x[:, columns] @ weights.T
    assert np.array_equal(PackedTensor.pack(tensor).product(x, int8), expected)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_one_width_for_all_columns_is_the_codec_columnwise(width: int) -> None:
    tensor = examples.sections(np.random.default_rng(width), (300, 70), (width,))
    same = ColumnwiseTensor(tensor.codes, table_of(tensor.tables, width), tensor.row_scale, tensor.col_scale)
    mine, plain, x = PackedTensor.pack(tensor), PackedTensor.pack(same), squared_relu(3, 70)
    assert np.array_equal(mine.arrays["codes"], plain.arrays["codes"])
    assert np.array_equal(tensor.decode(), same.decode())
    for int8 in (True, False):
        assert np.array_equal(mine.product(x, int8), plain.product(x, int8))


@pytest.mark.parametrize("cols", [1, 2, 3, 5, 64, 897])
def test_any_choice_of_widths_with_the_same_sum_takes_the_bytes_that_the_parameters_promise(cols: int) -> None:
    rng = np.random.default_rng(cols)
    for bits in STEPS:
        config = SectionsConfig(bits)
        counts, total = config.counts(cols), config.width_sum(cols)
        assert sum(counts.values()) == cols and min(counts.values()) >= 0
        assert np.floor(bits * cols) - total in ((0,) if cols > 5 else (0, 1))  # with few columns a bit may be left over
        widths = np.repeat(np.array(WIDTHS, np.uint8), list(counts.values()))
        for _ in range(20):  # 1 bit from one column to another
            one, other = rng.integers(0, cols, 2)
            if one != other and widths[one] == 3 and widths[other] == 3:
                widths[one], widths[other] = 2, 4
        tensor = dataclasses.replace(examples.sections(rng, (20, cols), (2,)), widths=widths)
        packed = PackedTensor.pack(tensor)
        assert sum(array.nbytes for array in packed.arrays.values()) == config.stored_bytes((20, cols))


def test_the_two_sections_of_6_bits_are_one_even_table() -> None:
    low, high = (section_table(np.zeros(28, np.int8), section) for section in SECTIONS if section.width == 6)
    assert np.array_equal((high[:, None] + low).flatten(), table_of(np.zeros(28, np.int8), 6))


def test_bits_are_quarters_from_2_to_6() -> None:
    assert [SectionsConfig(bits).code_bits for bits in (2, 2.25, 3, 3.75, 6)] == [2, 3, 3, 4, 6]
    for bits in (1.75, 2.1, 6.25):
        with pytest.raises(ConfigError, match="bits must be"):
            SectionsConfig(bits)


def test_damaged_tables_widths_and_scales_are_noticed() -> None:
    packed = PackedTensor.pack(examples.sections(np.random.default_rng(0), (20, 9)))
    codec, packing = packed.codec, packed.packing
    assert codec.broken_rule(packing, "tables", np.array([65], np.int8)) == ("tables", "be -64 to 64")
    assert codec.broken_rule(packing, "col_scale", np.array([-1], np.float16)) == ("col_scale", "be 0 or more")
    widths = packed.arrays["widths"].copy()
    assert codec.broken_rule(packing, "widths", widths) is None
    for wrong in (5, 0, 2 if widths[0] != 2 else 3):
        widths[0] = wrong
        rule = ("widths", "be 2, 3, 4 or 6, each as often as the table says")
        assert codec.broken_rule(packing, "widths", widths) == rule
        with pytest.raises(FormatError, match=r"widths of a sections\.r512 tensor must be 2, 3, 4 or 6"):
            PackedTensor(packing, {**packed.arrays, "widths": widths}).unpack()
    for counts in ({"cols2": 10}, {"cols2": -1, "cols3": 10}):
        with pytest.raises(FormatError, match="must have its 9 columns together; got"):
            dataclasses.replace(packing, values=dict.fromkeys(packing.values, 0) | counts).sizes()
    with pytest.raises(FormatError, match="has at most 131072 columns; got 131073"):
        SectionsConfig(3).stored_bytes((16, 131073))
    with pytest.raises(FormatError, match=r"sections\.rows"):
        SectionsConfig(3).stored_bytes((16, 64), rows=True)
