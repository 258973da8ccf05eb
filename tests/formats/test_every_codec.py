"""What every registered codec promises. Its examples are in examples.py, and a codec without examples fails here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest

from rwkvquant.codecs import Codec, PackedTensor, codecs
from rwkvquant.codecs.dense import DenseCodec
from tests.formats.examples import EXAMPLES
from tests.formats.test_layout import assert_same, stored

NAMES = [codec.name for codec in codecs()]


def without_examples(codecs: Iterable[Codec]) -> list[str]:
    """The layouts that a file may hold and of which there is no example."""
    rng = np.random.default_rng(0)
    shown = {codec.name: {layout for layout, _ in EXAMPLES.get(codec.name, lambda _: ())(rng)} for codec in codecs}
    return [layout for codec in codecs for layout in codec.layouts if layout not in shown[codec.name]]


def test_every_layout_of_every_codec_has_examples() -> None:
    assert without_examples(codecs()) == []


def test_a_codec_without_examples_is_noticed() -> None:
    class Other(DenseCodec):
        name = kind = "other"
        layouts = ("other4.t16x32",)

    assert without_examples((*codecs(), Other())) == ["other4.t16x32"]


@pytest.mark.parametrize("name", NAMES)
def test_a_tensor_comes_back_from_its_arrays_and_its_size_is_known_before(name: str) -> None:
    for layout, tensor in EXAMPLES[name](np.random.default_rng(1)):
        packed = PackedTensor.pack(tensor, layout)
        assert packed.layout == layout and packed.codec.name == name and packed.shape == tensor.shape
        assert all(array.ndim == 1 and array.nbytes % 64 == 0 for array in packed.arrays.values())
        assert stored(packed) == packed.packing.stored_bytes
        assert_same(packed.unpack(), tensor)


@pytest.mark.parametrize("name", NAMES)
def test_single_rows_and_products_are_those_of_the_decoded_weights(name: str) -> None:
    rng = np.random.default_rng(2)
    for layout, tensor in EXAMPLES[name](rng):
        packed, weights = PackedTensor.pack(tensor, layout), tensor.decode()
        assert np.array_equal(packed.rows([2, 0, 2]), weights[[2, 0, 2]]), layout
        x = rng.standard_normal((2, weights.shape[1])).astype(np.float32)
        expected = x.astype(np.float64) @ weights.astype(np.float64).T
        # float32 sums of n products: their error is at most about n units in the last place of the sum of magnitudes
        bound = weights.shape[1] * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(weights).T)
        assert (np.abs(packed.product(x, int8=False) - expected) <= bound).all(), layout


@pytest.mark.parametrize("name", NAMES)
def test_stored_values_of_a_codec_keep_its_own_rules(name: str) -> None:
    for layout, tensor in EXAMPLES[name](np.random.default_rng(3)):
        packed = PackedTensor.pack(tensor, layout)
        assert [packed.codec.broken_rule(packed.packing, *each) for each in packed.arrays.items()] == [None] * len(packed.arrays)
