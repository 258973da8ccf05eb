from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from rwkvquant.architectures.image import ImageSettings
from rwkvquant.images import Preprocessing, preprocessing_for
from tests.images.files import random_image

RELEASED = preprocessing_for(ImageSettings((14, 14), False), 16, "classify")


@pytest.mark.parametrize("rows, columns", [(300, 401), (401, 300), (256, 256), (256, 500), (1000, 257), (40, 30)])
def test_a_released_model_gets_the_middle_of_an_image_whose_short_side_is_256(rows: int, columns: int) -> None:
    """mmcls 0.25: Resize(size=(256, -1), backend='pillow', interpolation='bicubic'), CenterCrop(crop_size=224)."""
    image = random_image(rows, columns)
    size = (256, int(256 * rows / columns)) if columns < rows else (int(256 * columns / rows), 256)  # width, height
    columns_first = Image.fromarray(image).resize((size[0], rows), Image.Resampling.BICUBIC)
    whole = np.asarray(columns_first.resize(size, Image.Resampling.BICUBIC))
    top, left = (max(0, round((side - 224) / 2.0)) for side in whole.shape[:2])
    np.testing.assert_array_equal(RELEASED.fit(image), whole[top : top + 224, left : left + 224])


def test_larger_models_cut_in_the_same_proportion() -> None:
    assert preprocessing_for(ImageSettings((24, 24), True), 16, "classify").fit(random_image(900, 800)).shape == (384, 384, 3)


@pytest.mark.parametrize("task", ["segment", "detect", None])
def test_dense_heads_and_small_models_read_the_whole_image(task: str | None) -> None:
    image = random_image(48, 64)
    for how in (preprocessing_for(ImageSettings((18, 24), True), 8, task), preprocessing_for(ImageSettings((8, 8), True), 4, "classify")):
        assert not how.cut
        expected = Image.fromarray(image).resize((how.width, 48), Image.Resampling.BILINEAR)
        expected = expected.resize((how.width, how.height), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(how.fit(image), np.asarray(expected))


@pytest.mark.parametrize("cut", [False, True])
def test_an_image_of_the_models_size_is_used_as_it_is(cut: bool) -> None:
    image = random_image(224, 224)
    assert Preprocessing(224, 224, cut).fit(image) is image


def test_a_batch_has_images_of_any_size() -> None:
    batch = Preprocessing(8, 12).batch([random_image(30, 20), random_image(8, 12), random_image(1, 1)])
    assert batch.shape == (3, 8, 12, 3) and batch.dtype == np.uint8
