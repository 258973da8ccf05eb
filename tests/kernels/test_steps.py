"""Each native operation except products is its NumPy definition, has the same bits in every body, and writes only its columns.

Errors are measured against the definition in float64. They are at most twice those of the definition in float32, plus one rounding
of the largest result.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels import functions
from rwkvquant.kernels.token_shift import token_shift
from rwkvquant.kernels.wkv6 import decay6, wkv6
from rwkvquant.kernels.wkv7 import bonus7, keys7, wkv7
from tests.kernels.guarded import assert_same_bits, body, on_every_body

SIZES = [1, 3, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 128]
HEAD_SIZES = [1, 8, 16, 24, 32, 48, 64, 80, 128]
ROUNDING = float(np.finfo(np.float32).eps)
FUNCTIONS = {"sigmoid": functions.sigmoid, "tanh": np.tanh, "silu": functions.silu, "squared_relu": functions.squared_relu}
Array = np.ndarray[Any, Any]


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def assert_as_good_as(got: Array, definition: Callable[..., Any], *arrays: Array | None, part: int | None = None) -> None:
    def run(dtype: type) -> Array:
        out = definition(*(None if array is None else array.astype(dtype) for array in arrays))
        return np.asarray(out if part is None else out[part])

    reference = run(np.float64)
    allowed = 2 * np.abs(run(np.float32) - reference).max() + 4 * ROUNDING * np.abs(reference).max()
    assert np.abs(got - reference).max() <= allowed


@pytest.mark.parametrize("size", SIZES)
def test_layer_norm(size: int) -> None:
    x, weight, bias = 3 + normal(size, size), normal(1, size), normal(2, size)
    results = on_every_body(lambda y: _native.layer_norm(x, weight, bias, 1e-5, 0, size, y), size)
    assert_same_bits(results, results["plain"])
    assert_as_good_as(results["plain"], lambda *a: functions.layer_norm(a[0][None], a[1], a[2])[0], x, weight, bias)


def test_a_share_of_a_norm_is_that_share_of_the_whole() -> None:
    x, weight, bias, whole = normal(0, 100), normal(1, 100), normal(2, 100), np.empty(100, np.float32)
    _native.layer_norm(x, weight, bias, 1e-5, 0, 100, whole)
    for begin, end in ((0, 64), (64, 100), (64, 64)):
        part = np.full(100, np.nan, np.float32)
        _native.layer_norm(x, weight, bias, 1e-5, begin, end, part)
        np.testing.assert_array_equal(part[begin:end], whole[begin:end])
        assert np.isnan(part[:begin]).all() and np.isnan(part[end:]).all()


@pytest.mark.parametrize("size", SIZES)
def test_token_shift(size: int) -> None:
    x, before, mu, lean = (normal(seed, size) for seed in range(4))
    for extra in (None, lean):
        results = on_every_body(lambda y: _native.token_shift(x, before, mu, extra, 0, size, y), size)  # noqa: B023
        assert_same_bits(results, token_shift(x, before, mu if extra is None else mu + extra))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str) -> None:
    x = np.concatenate([np.linspace(-100, 100, 4001), np.geomspace(1e-30, 30, 999), -np.geomspace(1e-30, 30, 999), [0.0]]).astype(
        np.float32
    )

    def run(y: Array) -> None:
        y[:] = x
        _native.apply(name, y, 0, len(y))

    results = on_every_body(run, len(x))
    assert_same_bits(results, results["plain"])
    with np.errstate(over="ignore"):
        reference = FUNCTIONS[name](x.astype(np.float64))
    error = np.abs(results["plain"] - reference)
    assert (
        error <= 4 * ROUNDING * np.abs(reference) + 2e-36
    ).all()  # the last term: below 1e-38 exp gives 0, and silu multiplies it by up to 100


def test_functions_keep_nan_and_take_infinity() -> None:
    for isa in _native.available_isas():
        with body(isa):
            for name, ends in (("sigmoid", (0, 1)), ("tanh", (-1, 1)), ("squared_relu", (0, np.inf))):
                x = np.array([np.nan, -np.inf, np.inf], np.float32)
                _native.apply(name, x, 0, 3)
                assert np.isnan(x[0]) and tuple(x[1:]) == ends, (isa, name)


def test_decay6_is_between_0_and_1_for_any_input() -> None:
    d = np.concatenate([np.linspace(-60, 200, 2600), [-np.inf, np.inf]]).astype(np.float32)
    results = on_every_body(lambda w: _native.decay6(np.zeros_like(d), d, w), len(d))
    assert_same_bits(results, results["plain"])
    reference = decay6(np.zeros(len(d)), d.astype(np.float64))
    assert np.abs(results["plain"] - reference).max() < 2 * ROUNDING
    assert (results["plain"] >= 0).all() and (results["plain"] <= 1).all()


@pytest.mark.parametrize("size", HEAD_SIZES)
@pytest.mark.parametrize("first", [True, False])
def test_keys7(size: int, first: bool) -> None:
    k, v, w, a, gate, w0, a0, v0, k_k, k_a, v_first = (normal(seed, size) for seed in range(11))
    v_gate, v_bias = (None, None) if first else (gate, v0)
    definition = (k, v, w, a, v_gate, w0, a0, v_bias, k_k, k_a, v_first)
    results: list[dict[str, Array]] = []
    for part in range(5):

        def run(out: Array, part: int = part) -> None:
            outs = [np.empty(size, np.float32) for _ in range(5)]
            outs[part] = out
            remembered = v_first.copy()
            _native.keys7(k, v, w, a, v_gate, w0, a0, v_bias, k_k, k_a, remembered, *outs)
            np.testing.assert_array_equal(remembered, v if first else v_first)

        results.append(on_every_body(run, size))
    for part, result in enumerate(results):
        assert_same_bits(result, result["plain"])
        assert_as_good_as(result["plain"], keys7, *definition, part=part)


def test_a_key_of_zeros_has_no_direction() -> None:
    zeros, out = np.zeros(32, np.float32), [np.empty(32, np.float32) for _ in range(6)]
    _native.keys7(zeros, zeros, zeros, zeros, None, zeros, zeros, None, zeros, zeros, *out)
    assert (out[4] == 0).all() and (out[5] == 0).all()


@pytest.mark.parametrize("size", HEAD_SIZES)
@pytest.mark.parametrize("in_place", [True, False])
def test_wkv7(size: int, in_place: bool) -> None:
    S, r, w, k, v, kappa, a_kappa = (normal(seed, *([size, size] if seed == 0 else [size])) / size**0.5 for seed in range(7))

    def run(out: Array) -> None:
        before, o = S.reshape(-1).copy(), np.empty(size, np.float32)
        after = before if in_place else np.empty_like(before)
        _native.wkv7(before, r, w.copy(), k.copy(), v.copy(), kappa.copy(), a_kappa.copy(), o, after)
        out[:size], out[size:] = o, after

    results = on_every_body(run, size + size * size)
    assert_same_bits(results, results["plain"])
    assert_as_good_as(results["plain"][:size], wkv7, S, r, w, k, v, kappa, a_kappa, part=0)
    assert_as_good_as(results["plain"][size:].reshape(size, size), wkv7, S, r, w, k, v, kappa, a_kappa, part=1)


@pytest.mark.parametrize("size", HEAD_SIZES)
def test_bonus7(size: int) -> None:
    y, r, k, r_k, v, g = (normal(seed, size) for seed in range(6))

    def run(out: Array) -> None:
        out[:] = y
        _native.bonus7(out, r, k, r_k, v, g)

    results = on_every_body(run, size)
    assert_same_bits(results, results["plain"])
    assert_as_good_as(results["plain"], bonus7, y, r, k, r_k, v, g)


@pytest.mark.parametrize("size", HEAD_SIZES)
@pytest.mark.parametrize("in_place", [True, False])
def test_wkv6(size: int, in_place: bool) -> None:
    S, r, w, k, v, u = (normal(seed, *([size, size] if seed == 0 else [size])) / size**0.5 for seed in range(6))

    def run(out: Array) -> None:
        before, o = S.reshape(-1).copy(), np.empty(size, np.float32)
        after = before if in_place else np.empty_like(before)
        _native.wkv6(before, r, w, k, v, u, o, after)
        out[:size], out[size:] = o, after

    results = on_every_body(run, size + size * size)
    assert_same_bits(results, results["plain"])
    assert_as_good_as(results["plain"][:size], wkv6, S, r, w, k, v, u, part=0)
    assert_as_good_as(results["plain"][size:].reshape(size, size), wkv6, S, r, w, k, v, u, part=1)


def test_arrays_of_other_sizes_are_refused() -> None:
    x, short = np.zeros(64, np.float32), np.zeros(63, np.float32)
    for call in (
        lambda: _native.layer_norm(x, short, x, 1e-5, 0, 64, x),
        lambda: _native.layer_norm(x, x, x, 1e-5, 0, 65, x.copy()),
        lambda: _native.token_shift(x, x, x, short, 0, 64, x.copy()),
        lambda: _native.apply("sigmoid", x, 10, 65),
        lambda: _native.apply("cosine", x, 0, 64),
        lambda: _native.wkv6(np.zeros(64 * 63, np.float32), x, x, x, x, x, x.copy(), np.zeros(64 * 64, np.float32)),
    ):
        with pytest.raises(ValueError, match=r"^\["):
            call()
