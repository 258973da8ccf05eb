"""Resizing by weights is what torch's interpolate does, up or down."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from rwkvquant.kernels.resize import bicubic_weights, bilinear_weights, resize

SIDE = st.integers(1, 19)


@settings(deadline=None, max_examples=60)
@given(SIDE, SIDE, SIDE, SIDE, st.sampled_from(["bicubic", "bilinear"]), st.integers(0, 99))
def test_it_is_interpolate(rows: int, columns: int, height: int, width: int, mode: str, seed: int) -> None:
    x = np.random.default_rng(seed).standard_normal((2, 3, rows, columns))
    expected = functional.interpolate(torch.from_numpy(x), size=(height, width), mode=mode, align_corners=False).numpy()
    weights = {"bicubic": bicubic_weights, "bilinear": bilinear_weights}[mode]
    result = resize(x, weights(rows, height), weights(columns, width))
    np.testing.assert_allclose(result, expected, rtol=1e-10, atol=1e-10)
    single = resize(x.astype(np.float32), weights(rows, height), weights(columns, width))
    assert single.dtype == np.float32 and np.abs(single - expected).max() < 1e-5


@given(SIDE, SIDE)
def test_weights_of_each_place_sum_to_one_and_the_same_size_changes_nothing(old: int, new: int) -> None:
    for weights in (bicubic_weights, bilinear_weights):
        np.testing.assert_allclose(weights(old, new).sum(1), 1, rtol=1e-12)
        assert np.array_equal(weights(old, old), np.eye(old))


def test_the_cubic_of_half_a_place_has_its_known_weights() -> None:
    """Keys' cubic with a = -0.75 at 1/2: -3/32 and 19/32."""
    np.testing.assert_allclose(bicubic_weights(8, 4)[1] * 32, [0, -3, 19, 19, -3, 0, 0, 0], atol=1e-12)
