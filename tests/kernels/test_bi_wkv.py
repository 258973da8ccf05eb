"""Bi-WKV by two scans is the formula; the emulated CUDA kernel is what its own arithmetic says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from rwkvquant.kernels.bi_wkv import bi_wkv, bi_wkv_cuda, bi_wkv_dense
from rwkvquant.models.bi_wkv import bi_wkv as bi_wkv_torch

Inputs = tuple[NDArray, NDArray, NDArray, NDArray]


def random_inputs(batch: int, tokens: int, width: int, seed: int, decay: float = 4.0, size: float = 2.0) -> Inputs:
    """w, u, k, v in float64; w and u of both signs, divided by T as models do."""
    rng = np.random.default_rng(seed)
    w, u = decay * rng.standard_normal(width) / tokens, decay * rng.standard_normal(width) / tokens
    return w, u, size * rng.standard_normal((batch, tokens, width)), rng.standard_normal((batch, tokens, width))


def by_hand(w: NDArray, u: NDArray, k: NDArray, v: NDArray) -> NDArray:
    """The paper's formula, one number at a time; the 1e-6 counts relative to the largest weight, as in the CUDA kernel."""
    y = np.empty_like(v)
    batch, tokens, width = k.shape
    for b, t, c in np.ndindex(batch, tokens, width):
        p = [u[c] + k[b, i, c] if i == t else -(abs(t - i) - 1) * w[c] + k[b, i, c] for i in range(tokens)]
        e = np.exp(np.array(p) - max(p))
        y[b, t, c] = (e * v[b, :, c]).sum() / (e.sum() + 1e-6)
    return y


SIZES = {"batch": st.integers(1, 3), "tokens": st.integers(1, 70), "width": st.integers(1, 5), "seed": st.integers(0, 99)}


@settings(deadline=None, max_examples=30)
@given(**(SIZES | {"tokens": st.integers(1, 12)}))
def test_the_dense_form_is_the_formula(batch: int, tokens: int, width: int, seed: int) -> None:
    inputs = random_inputs(batch, tokens, width, seed)
    np.testing.assert_allclose(bi_wkv_dense(*inputs), by_hand(*inputs), rtol=1e-12, atol=1e-13)


@settings(deadline=None, max_examples=40)
@given(**SIZES)
def test_two_scans_are_the_dense_form(batch: int, tokens: int, width: int, seed: int) -> None:
    inputs = random_inputs(batch, tokens, width, seed)
    dense = bi_wkv_dense(*inputs)
    np.testing.assert_allclose(bi_wkv(*inputs), dense, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(bi_wkv_torch(*map(torch.from_numpy, inputs)).numpy(), dense, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [100.0, 1e4])
@pytest.mark.parametrize("decay", [1e3, 1e5])
def test_no_exponential_overflows(decay: float, size: float) -> None:
    """k, and the decay of a distance, far beyond what exp can take, with both signs of w."""
    inputs = random_inputs(2, 40, 6, 3, decay, size)
    dense = bi_wkv_dense(*inputs)
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        np.testing.assert_allclose(bi_wkv(*inputs), dense, rtol=1e-6, atol=1e-9)
    assert np.isfinite(bi_wkv(*(array.astype(np.float32) for array in inputs))).all()


def test_float32_is_close_to_float64() -> None:
    """Each of 200 steps rounds a few times: at most about 200 * 6e-8 of the largest value."""
    inputs = random_inputs(2, 200, 8, 5)
    exact = bi_wkv(*inputs)
    single = [array.astype(np.float32) for array in inputs]
    for result in (bi_wkv(*single), bi_wkv_dense(*single), bi_wkv_torch(*map(torch.from_numpy, single)).numpy()):
        assert result.dtype == np.float32
        assert np.abs(result - exact).max() < 1.2e-5 * np.abs(exact).max()


def test_a_large_bonus_gives_the_token_itself_and_equal_keys_give_the_mean() -> None:
    _, _, k, v = random_inputs(2, 9, 4, 7)
    np.testing.assert_allclose(bi_wkv(np.zeros(4), np.full(4, 60.0), k, v), v / (1 + 1e-6), rtol=1e-12)
    mean = bi_wkv(np.zeros(4), np.zeros(4), np.zeros_like(k), v)
    np.testing.assert_allclose(mean, np.broadcast_to(v.sum(1, keepdims=True) / (9 + 1e-6), v.shape), rtol=1e-12)


def test_gradients_are_those_of_the_dense_form() -> None:
    w, u, k, v = (torch.from_numpy(array).requires_grad_() for array in random_inputs(1, 6, 2, 11))
    assert torch.autograd.gradcheck(bi_wkv_torch, (w, u, k, v))


def closed_form_of_cuda(w: NDArray, u: NDArray, k: NDArray, v: NDArray) -> NDArray:
    """The weights that the CUDA kernel's updates leave for each pair of tokens, in exact arithmetic (w, k small: no maximum is needed).

    A chunk that begins at s: tokens of earlier chunks weigh e^{k - |t - i| w}; earlier ones of the chunk e^{k - (|t - i| - 1) w}, later
    tokens e^{k - |t - i| w}. Going from t to t + 1, the kernel multiplies the sum of later tokens by e^w and subtracts e^{k + w} for the
    next one, of which the sum has e^k then. So e^{k_j} (1 - e^w) e^{w (t - j)} stays for every j in s + 1 .. t.
    """
    _, tokens, _ = k.shape
    size = -(-tokens // 32)
    y = np.empty_like(v)
    for t in range(tokens):
        start = t // size * size
        weight = np.empty_like(k)
        for i in range(tokens):
            near = start <= i < t
            weight[:, i] = np.exp(u + k[:, t]) if i == t else np.exp(k[:, i] - w * (abs(t - i) - near))
            if start < i <= t:
                weight[:, i] += np.exp(k[:, i] + w * (t - i)) * (1 - np.exp(w))
        y[:, t] = (weight * v).sum(1) / weight.sum(1)
    return y


@pytest.mark.parametrize("tokens", [1, 5, 32, 33, 64, 100, 196])
def test_the_emulated_cuda_kernel_is_its_closed_form(tokens: int) -> None:
    w, u, k, v = random_inputs(2, tokens, 5, tokens, size=0.5)
    expected = closed_form_of_cuda(w, u, k, v)
    np.testing.assert_allclose(bi_wkv_cuda(w, u, k, v), expected, rtol=0, atol=4e-6)  # the 1e-6 of the denominator


def test_the_cuda_kernel_is_within_one_percent_of_the_formula_but_is_not_it() -> None:
    _, u, k, v = random_inputs(2, 196, 32, 1, size=1.0)
    w = np.full(32, 0.03)
    difference = np.abs(bi_wkv_cuda(w, u, k, v) - bi_wkv(w, u, k, v)).max()
    assert 1e-3 < difference < 1e-2
