"""The native Bi-WKV is its definition, has the same bits in every body, and writes only its channels."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.bi_wkv import bi_wkv
from tests.kernels.guarded import assert_same_bits, on_every_body
from tests.kernels.test_steps import assert_as_good_as

Array = np.ndarray


def random_inputs(tokens: int, width: int, seed: int, decay: float = 4.0, size: float = 2.0) -> list[Array]:
    """w, u (C,), k, v (T, C) in float32, of one image; w and u of both signs, divided by T as models do."""
    rng = np.random.default_rng(seed)
    w, u = (decay * rng.standard_normal(width) / tokens for _ in range(2))
    k, v = size * rng.standard_normal((tokens, width)), rng.standard_normal((tokens, width))
    return [array.astype(np.float32) for array in (w, u, k, v)]


def native(w: Array, u: Array, k: Array, v: Array, begin: int = 0, end: int | None = None) -> Array:
    y = np.full(k.size, np.nan, np.float32)
    _native.bi_wkv(w, u, k.reshape(-1), v.reshape(-1), begin, len(w) if end is None else end, y)
    return y.reshape(k.shape)


@pytest.mark.parametrize("width", [1, 7, 15, 16, 17, 31, 32, 33, 40, 64, 100])
@pytest.mark.parametrize("tokens", [1, 2, 9, 64, 200])
def test_it_is_the_definition_in_every_body(tokens: int, width: int) -> None:
    w, u, k, v = random_inputs(tokens, width, 100 * tokens + width)
    results = on_every_body(lambda y: _native.bi_wkv(w, u, k.reshape(-1), v.reshape(-1), 0, width, y), k.size)
    assert_same_bits(results, results["plain"])
    assert_as_good_as(results["plain"].reshape(k.shape), lambda w, u, k, v: bi_wkv(w, u, k[None], v[None])[0], w, u, k, v)


@pytest.mark.parametrize(("decay", "size"), [(1e3, 100.0), (1e5, 1e4), (0.0, 80.0)])
def test_no_exponential_overflows(decay: float, size: float) -> None:
    w, u, k, v = random_inputs(40, 20, 3, decay, size)
    exact = bi_wkv(*(array.astype(np.float64) for array in (w, u)), *(array.astype(np.float64)[None] for array in (k, v)))[0]
    np.testing.assert_allclose(native(w, u, k, v), exact, rtol=1e-4, atol=1e-4)


def test_a_share_of_the_channels_is_that_share_of_the_whole() -> None:
    w, u, k, v = random_inputs(30, 50, 1)
    whole = native(w, u, k, v)
    for begin, end in ((0, 16), (16, 50), (3, 4), (32, 32)):
        part = native(w, u, k, v, begin, end)
        np.testing.assert_array_equal(part[:, begin:end], whole[:, begin:end])
        assert np.isnan(np.delete(part, np.s_[begin:end], axis=1)).all()


def test_what_is_not_a_number_stays_in_its_channel() -> None:
    w, u, k, v = random_inputs(30, 50, 2)
    whole = native(w, u, k, v)
    k[4, 7] = np.nan
    y = native(w, u, k, v)
    assert np.isnan(y[:, 7]).all()
    np.testing.assert_array_equal(np.delete(y, 7, axis=1), np.delete(whole, 7, axis=1))


@pytest.mark.parametrize("lengths", [(2, 3, 8, 8, 8), (2, 2, 7, 7, 7), (2, 2, 8, 6, 8), (2, 2, 8, 8, 6), (0, 0, 0, 0, 0)])
def test_sizes_that_do_not_fit_are_refused(lengths: tuple[int, ...]) -> None:
    w, u, k, v, y = (np.zeros(length, np.float32) for length in lengths)
    with pytest.raises(ValueError, match="bi_wkv"):
        _native.bi_wkv(w, u, k, v, 0, len(w), y)


def test_channels_outside_of_the_vector_are_refused() -> None:
    w, k = np.zeros(2, np.float32), np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="columns must begin and end inside"):
        _native.bi_wkv(w, w, k, k, 0, 3, k.copy())
