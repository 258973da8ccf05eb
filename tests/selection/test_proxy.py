"""The proxies are Eq. (5)-(17) of RWKVQuant in every reading, with answers known without running anything."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.selection import proxy
from rwkvquant.selection.proxy import READINGS, SOURCE_STEPS, in_bfloat16, proxies, saved_in

ORDERS = range(2, 7)


def by_definition(gaps: list[Fraction]) -> tuple[float, dict[tuple[int, bool], float]]:
    """Eq. (6)-(9) and (13)-(17) as printed, P_f in exact fractions: P_c, and P_f for (K, signed)."""
    n, total = len(gaps), sum(gaps)
    G = [gap / total for gap in gaps]  # Eq. (6)
    entropy = -sum(float(g) * math.log(g) for g in G if g)  # Eq. (7)
    fine = {}
    for K in ORDERS:
        for signed in (False, True):
            P_f = Fraction(0)
            for k in range(2, K + 1):
                M_k = sum((g - Fraction(1, n)) ** k for g in G) / n
                v_k = Fraction(n**k, k * (k - 1))
                P_f += (-1) ** k * v_k * M_k if signed else v_k * abs(M_k)  # Eq. (15), (17)
            fine[K, signed] = float(P_f)
    return math.log(n) - entropy, fine


def fraction_gaps(W: NDArray[np.floating], reading: str) -> list[Fraction]:
    ordered = sorted(Fraction(float(w)) for w in W.flat)
    gaps = [b - a for a, b in itertools.pairwise(ordered)]
    return gaps if reading == "paper" else sorted({gap for gap in gaps if gap})


def samples(dtype: type[np.floating], count: int) -> NDArray[np.floating]:
    return np.random.default_rng(count).normal(size=count).astype(dtype)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("reading", ["paper", "unique"])
@pytest.mark.parametrize("count", [2, 3, 10, 300])
def test_both_proxies_are_their_equations(count: int, reading: str, dtype: type[np.floating]) -> None:
    W = samples(dtype, count)
    gaps = fraction_gaps(W, reading)
    assert gaps
    result = proxies(W, reading)
    coarse, fine = by_definition(gaps)
    assert result.gaps == len(gaps)
    assert result.coarse == pytest.approx(coarse, rel=1e-9, abs=1e-12)
    for (K, signed), expected in fine.items():
        assert result.fine(K, signed) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    W = samples(np.float16, 500)
    whole = {reading: proxies(W, reading, "float16") for reading in READINGS}
    for chunk in (1, 7, 499, 500):
        monkeypatch.setattr(proxy, "CHUNK", chunk)
        for reading in READINGS:
            result = proxies(W, reading, "float16")
            assert result.gaps == whole[reading].gaps
            assert result.coarse == pytest.approx(whole[reading].coarse, rel=1e-12)
            assert result.moments == pytest.approx(whole[reading].moments, rel=1e-12)


@pytest.mark.parametrize("reading", ["paper", "unique"])
def test_equal_gaps_are_perfectly_uniform(reading: str) -> None:
    result = proxies(np.arange(-8.0, 9.0).reshape(1, 17), reading)
    assert result.gaps == (16 if reading == "paper" else 1)
    assert result.coarse == 0
    assert [result.fine(K) for K in ORDERS] == [0] * 5


def test_one_gap_among_ties_by_hand() -> None:
    """Two values: of n gaps one is everything. P_c = ln n; y - 1 is n - 1 once and -1 otherwise."""
    n = 9
    result = proxies(np.float32([2.5] * 4 + [7.0] * 6))
    moments = [((n - 1) ** k + (n - 1) * (-1) ** k) / n for k in ORDERS]
    assert result.gaps == n
    assert result.coarse == pytest.approx(math.log(n))
    assert result.moments == pytest.approx(moments)
    assert result.fine() == pytest.approx(moments[0] / 2 + moments[1] / 6 + moments[2] / 12)
    assert proxies(np.float32([2.5] * 4 + [7.0] * 6), "unique").coarse == 0  # one distinct gap


def test_dropping_the_sign_matters_for_odd_orders_only() -> None:
    result = proxies(np.array([0.0, 1.0, 2.0, 10.0]))
    even, odd = result.moments[0] / 2 + result.moments[2] / 12, result.moments[1] / 6
    assert odd > 0
    assert result.fine(4, signed=False) == pytest.approx(even + odd)
    assert result.fine(4, signed=True) == pytest.approx(even - odd)
    assert result.fine(2, signed=True) == result.fine(2, signed=False)


def test_the_signed_series_approaches_the_coarse_proxy() -> None:
    gaps = 1 + 0.5 * np.random.default_rng(0).uniform(0, 1, 1000) ** 4  # |y - 1| < 1, where the series converges; skewed
    result = proxies(np.cumsum(gaps))
    errors = [abs(result.fine(K, signed=True) - result.coarse) for K in ORDERS]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3 * result.coarse
    assert result.fine(6, signed=False) > 1.05 * result.coarse


def test_tiny_departures_from_uniform_keep_their_digits() -> None:
    """ln n - H would lose all of a P_c of 1e-15 / 2."""
    n, small = 1 << 16, 2.0**-25
    gaps = np.where(np.arange(n) % 2 == 0, 1 + small, 1 - small)
    result = proxies(np.concatenate([[0.0], np.cumsum(gaps)]))
    assert result.coarse == pytest.approx(small**2 / 2, rel=1e-3, abs=0)
    assert result.fine(2) == pytest.approx(small**2 / 2, rel=1e-3, abs=0)


def test_rounding_of_the_gaps_does_not_change_the_coarse_proxy() -> None:
    """Every y is off by up to 1e-16, and mean(y ln y) by their mean; y ln y - (y - 1) is off by its square."""
    gaps = 0.3 * (1 + 1e-9 * np.random.default_rng(0).uniform(-1, 1, 99))
    exact = [Fraction(gap) for gap in gaps]
    mean = sum(exact) / len(exact)
    expected = float(sum((gap / mean - 1) ** 2 for gap in exact) / len(exact) / 2)  # higher terms are 1e-9 of it
    assert proxy._from_gaps([gaps], len(gaps), float(sum(exact))).coarse == pytest.approx(expected, rel=1e-5, abs=0)


@pytest.mark.parametrize("W", [[], [3.0], [2.0] * 5], ids=["none", "one", "equal"])
@pytest.mark.parametrize("reading", ["paper", "unique"])
def test_no_gap_at_all_is_uniform(W: list[float], reading: str) -> None:
    result = proxies(np.float32(W), reading)
    assert (result.coarse, result.fine(6)) == (0, 0)


@pytest.mark.parametrize("reading", ["paper", "unique"])
def test_scale_shift_and_order_do_not_matter(reading: str) -> None:
    W = np.random.default_rng(1).integers(-500, 500, (40, 10)).astype(np.float64)
    plain = proxies(W, reading)
    for changed in (W * 2.0**-40, W + 1024, -W, np.random.default_rng(2).permutation(W.ravel())):
        result = proxies(changed, reading)
        assert result.coarse == pytest.approx(plain.coarse, rel=1e-12)
        assert result.moments == pytest.approx(plain.moments, rel=1e-12)


def test_independent_uniform_weights_without_ties_give_one_minus_gamma() -> None:
    """Gaps are exponential: E[y ln y] = 1 - gamma, and E[(y-1)^k] = 1, 2, 9 for k = 2, 3, 4, so P_f = 1/2 + 2/6 + 9/12."""
    result = proxies(np.random.default_rng(0).uniform(-1, 1, 1 << 20))
    assert result.coarse == pytest.approx(1 - 0.5772156649, abs=0.005)  # 3 standard errors: sqrt(var(y ln y)) = 1.5 over 2**10
    assert result.fine() == pytest.approx(19 / 12, abs=0.1)


def test_gaussian_weights_give_kl_from_uniform_plus_one_minus_gamma() -> None:
    W = np.random.default_rng(0).normal(size=1 << 20)
    low, high = W.min(), W.max()
    log_density = -0.5 * math.log(2 * math.pi) - (low**2 + low * high + high**2) / 6  # mean of ln f over low..high
    kl = -math.log(high - low) - log_density
    assert proxies(W).coarse == pytest.approx(kl + 0.4228, abs=0.15)  # the gaps in the tails are large and few, and vary by this much


@pytest.mark.parametrize("dtype", sorted(SOURCE_STEPS))
def test_dither_stays_within_half_a_step_and_fills_it(dtype: str) -> None:
    values = np.float32([0.0, 1.0, -1.5, 0.3125, 3e-6, 100.0])
    digits = {"float16": 11, "bfloat16": 8, "float32": 24}[dtype]
    smallest = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149}[dtype]
    for value in values:
        moved = proxy._dither(np.full(4000, value), SOURCE_STEPS[dtype], 0) - float(value)
        step = max(smallest, 2.0 ** (math.floor(math.log2(abs(value))) + 1 - digits)) if value else smallest
        assert 0.49 * step < np.abs(moved).max() <= 0.5 * step * (1 + 1e-6)
        assert abs(moved.mean()) < 0.02 * step


def test_dither_steps_are_those_of_numpy() -> None:
    for dtype, numpy_dtype in (("float16", np.float16), ("float32", np.float32)):
        for value in (1.0, 1.9, 0.1, 7e-6, 2.0**-24):
            rounded = numpy_dtype(value)
            moved = proxy._dither(np.full(4000, rounded), SOURCE_STEPS[dtype], 0) - float(rounded)
            assert 2 * np.abs(moved).max() == pytest.approx(float(np.spacing(rounded)), rel=0.01)


def test_dithered_ties_have_the_theoretical_proxies_again() -> None:
    W = np.random.default_rng(0).uniform(1, 2, 1 << 18).astype(np.float16)  # 1024 values only
    assert proxies(W, "paper").coarse > 5
    result = proxies(W, "dithered", "float16")
    assert result.coarse == pytest.approx(0.4228, abs=0.02)
    assert result.fine() == pytest.approx(19 / 12, abs=0.3)


def test_bfloat16_is_that_of_torch_and_is_found_in_other_types() -> None:
    W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    rounded = torch.from_numpy(W).bfloat16().float().numpy()
    assert np.array_equal(in_bfloat16(W), rounded)
    assert saved_in(W.astype(np.float16).astype(np.float32), "float16") == "float16"
    assert saved_in(rounded, "float16") == "bfloat16"


def test_dither_depends_only_on_seed_and_values() -> None:
    W = samples(np.float16, 400)
    shuffled = np.random.default_rng(3).permutation(W).reshape(20, 20)
    assert proxies(W, "dithered", "float16", seed=5) == proxies(shuffled, "dithered", "float16", seed=5)
    assert proxies(W, "dithered", "float16", seed=5) != proxies(W, "dithered", "float16", seed=6)


@pytest.mark.parametrize("reading", READINGS)
def test_the_weights_are_not_changed(reading: str) -> None:
    W = samples(np.float32, 50)
    before = W.copy()
    proxies(W, reading)
    assert np.array_equal(W, before)


def test_statistics_of_the_gaps_are_their_definitions() -> None:
    """W = 0, 1, 2, 6: G = 1, 1, 4, so G' = 1/6, 1/6, 4/6, with the mean 1/3; variance 1/18, and |G' - 1/3| = 1/6, 1/6, 1/3."""
    found = proxies(np.array([2.0, 6.0, 0.0, 1.0])).statistics()
    entropy = -(2 / 6 * math.log(1 / 6) + 4 / 6 * math.log(4 / 6))
    expected = {"variance": 1 / 18, "cv": 3 * math.sqrt(1 / 18), "range": 1 / 2, "mad": 2 / 9, "entropy": entropy}
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("reading", ["paper", "unique"])
def test_statistics_of_many_gaps(reading: str) -> None:
    G = np.array([float(gap) for gap in fraction_gaps(samples(np.float16, 300), reading)])
    G /= G.sum()
    entropy = -sum(g * math.log(g) for g in G if g)
    expected = {
        "variance": G.var(),
        "cv": G.std() / G.mean(),
        "range": G.max() - G.min(),
        "mad": np.abs(G - G.mean()).mean(),
        "entropy": entropy,
    }
    assert proxies(samples(np.float16, 300), reading).statistics() == pytest.approx(expected)


@pytest.mark.parametrize("W", [np.zeros(5), np.ones(1), np.zeros(0)])
@pytest.mark.parametrize("reading", READINGS)
def test_statistics_without_gaps_are_finite(W: NDArray[np.floating], reading: str) -> None:
    if reading != "dithered" or W.size < 2:
        assert all(math.isfinite(value) and value >= 0 for value in proxies(W, reading).statistics().values())
