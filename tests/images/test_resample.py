"""Our resize is Pillow's, to the bit. Both axes in one call are in the same order in all versions only where the height grows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rwkvquant.images.resample import BICUBIC, BILINEAR, resample

PILLOW = {BICUBIC: Image.Resampling.BICUBIC, BILINEAR: Image.Resampling.BILINEAR}
SIDES = st.integers(1, 60)


@settings(deadline=None, max_examples=200)
@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from([BICUBIC, BILINEAR]), st.integers(0, 1000))
def test_it_is_pillows_resize(rows, columns, height, width, kind, seed) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (rows, columns, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((width, rows), PILLOW[kind]).resize((width, height), PILLOW[kind]))
    np.testing.assert_array_equal(resample(image, height, width, kind), expected)
    if height >= rows:
        np.testing.assert_array_equal(resample(image, height, width, kind), Image.fromarray(image).resize((width, height), PILLOW[kind]))


@pytest.mark.parametrize("kind", PILLOW)
def test_a_photo_is_resized_as_by_pillow(kind: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (480, 331, 3), np.uint8)
    expected = np.asarray(Image.fromarray(image).resize((176, 256), PILLOW[kind]))
    np.testing.assert_array_equal(resample(image, 256, 176, kind), expected)


def test_one_colour_stays_one_colour() -> None:
    assert (resample(np.full((9, 7, 3), 200, np.uint8), 31, 4) == 200).all()


def test_an_image_of_this_size_stays_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 6, 3), np.uint8)
    np.testing.assert_array_equal(resample(image, 5, 6), image)
