"""Codebooks of element-wise vectors have the least loss of Eq. (19); the weights of the paper and of the authors are as documented."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant.calibration.statistics import Importance
from rwkvquant.calibration.statistics.importance import READINGS
from rwkvquant.quantizers.elementwise.codebooks import (
    ElementwiseCodebook,
    authors_codebook,
    weighted_codebook,
)


def equation_19(X: NDArray[np.float64], mu: NDArray[np.float64], decoded: NDArray[np.float32]) -> float:
    return float(np.sum((X * mu - X * decoded) ** 2))


def least_loss(mu: NDArray[np.float64], weights: NDArray[np.float64], k: int) -> float:
    """Every way to cut the sorted vector into k runs."""
    order = np.argsort(mu)
    x, p = mu[order], weights[order]
    losses = []
    for cuts in itertools.combinations(range(1, len(x)), k - 1):
        runs = itertools.pairwise([0, *cuts, len(x)])
        losses.append(sum(np.sum(p[a:b] * (x[a:b] - np.average(x[a:b], weights=p[a:b])) ** 2) for a, b in runs))
    return float(min(losses))


@pytest.mark.parametrize("seed", range(4))
def test_loss_is_the_least_of_all_codebooks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X, mu = rng.normal(size=(20, 11)) * rng.uniform(0.1, 3, 11), rng.normal(size=11)
    importance = Importance(11)
    importance.add(X)
    result = weighted_codebook(mu, importance.weights, bits=2, group_size=16)
    assert equation_19(X, mu, result.decode()) == pytest.approx(20 * least_loss(mu, importance.weights, 4), rel=1e-5)


def test_groups_are_independent_and_the_last_may_be_short() -> None:
    mu = np.random.default_rng(0).normal(size=150)
    weights = np.random.default_rng(1).uniform(size=150)
    whole = weighted_codebook(mu, weights, group_size=64)
    parts = [weighted_codebook(mu[at : at + 64], weights[at : at + 64], group_size=64) for at in (0, 64, 128)]
    assert whole.codes.shape == (150,) and whole.centroids.shape == (3, 8)
    assert np.array_equal(whole.decode(), np.concatenate([part.decode() for part in parts]))


def test_a_vector_of_few_values_is_exact() -> None:
    mu = np.float32([0.5, -1, 0.25, 0.5, -1, 3] * 20)
    assert np.array_equal(weighted_codebook(mu, np.ones(120)).decode(), mu)
    assert np.array_equal(weighted_codebook(mu[:3], np.ones(3)).decode(), mu[:3])


def test_a_heavy_element_is_exact_and_weightless_ones_do_not_matter() -> None:
    mu = np.linspace(-1, 1, 64)
    weights = np.zeros(64)
    weights[[3, 20, 40]] = 1.0
    assert weighted_codebook(mu, weights).decode()[[3, 20, 40]] == pytest.approx(mu[[3, 20, 40]], rel=1e-6)
    no_weights = weighted_codebook(mu, np.zeros(64))
    assert np.array_equal(no_weights.decode(), weighted_codebook(mu, np.ones(64)).decode())
    short = weighted_codebook(mu[:50], np.zeros(50))  # the elements that fill up the group do not count
    assert np.array_equal(short.decode(), weighted_codebook(mu[:50], np.ones(50)).decode())


def test_decoding_takes_the_code_of_its_group() -> None:
    codebook = ElementwiseCodebook(np.uint8([0, 1, 1, 0, 1]), np.float32([[1, 2], [3, 4], [5, 6]]), 2)
    assert codebook.decode().tolist() == [1, 2, 4, 3, 6]


@pytest.mark.parametrize("reading", READINGS)
def test_importance_of_two_samples_by_hand(reading: str) -> None:
    first, second = np.array([[1.0, -2.0], [3.0, 2.0]]), np.array([[-4.0, 6.0]])
    importance = Importance(2, reading, percentile=100)
    importance.add(first)
    importance.add(second.astype(np.float32))
    expected = {
        "mean_square": [(5 + 16) / 2, (4 + 36) / 2],  # means of squares 5, 4 and 16, 36
        "paper": [((2 - 4) / 2) ** 2, ((0 + 6) / 2) ** 2],  # means 2, 0 and -4, 6
        "authors": [1000 * (2 + 4) / 2, 1000 * (0 + 6) / 2],
    }
    assert importance.weights == pytest.approx(expected[reading])


def test_the_clip_is_by_each_samples_own_percentiles() -> None:
    X = np.arange(101.0)[:, None]  # percentile p is p
    clipped, plain = Importance(1, "paper", percentile=90), Importance(1, "mean_square", percentile=90)
    for scale in (1, -10):
        clipped.add(scale * X)
        plain.add(scale * X)
    outlier = np.vstack([X, [[1e6]]])
    with_outlier = Importance(1, "paper", percentile=90)
    with_outlier.add(outlier)
    assert clipped.weights == pytest.approx([((50 - 500) / 2) ** 2])  # 10..90 and -900..-100 keep their means
    assert with_outlier.weights[0] < 52**2
    assert plain.weights == pytest.approx([(1 + 100) / 2 * np.mean(X**2)])


def test_the_mean_of_a_token_shift_depends_only_on_its_last_token() -> None:
    """Why "paper" and "authors" weights say little about x_r .. x_g: two texts with the same last token have the same weights."""
    rng = np.random.default_rng(0)
    quiet, loud = rng.normal(size=(200, 5)), rng.normal(size=(200, 5)) * [1, 5, 10, 20, 40]
    loud[-1] = quiet[-1]
    weights = {}
    for reading in READINGS:
        for name, x in (("quiet", quiet), ("loud", loud)):
            importance = Importance(5, reading, percentile=100)
            importance.add(np.diff(x, axis=0, prepend=np.zeros((1, 5))))
            weights[reading, name] = importance.weights
    assert weights["paper", "loud"] == pytest.approx(weights["paper", "quiet"])
    assert weights["authors", "loud"] == pytest.approx(weights["authors", "quiet"])
    assert np.all(weights["mean_square", "loud"][1:] > 10 * weights["mean_square", "quiet"][1:])


def authors_by_definition(mu: list[float], weights: list[float]) -> NDArray[np.float64]:
    """One group, by element: the docstring of authors_codebook in plain loops. A short group is first filled with its last element."""
    x, p = np.array(mu), np.array(weights)
    filled = np.array(mu + mu[-1:] * (64 - len(mu)))
    order = np.argsort((filled - filled.mean()) ** 2, kind="stable")
    centroids = [filled[order[round(i * 63 / 7)]] for i in range(8)]
    for _ in range(100):
        nearest = [int(np.argmin([abs(v - c) for c in centroids])) for v in x]
        for k in range(8):
            members = [i for i in range(len(mu)) if nearest[i] == k]
            if members:
                centroids[k] = sum(p[i] * x[i] for i in members) / max(1.0, sum(p[i] for i in members))
    step = max(abs(c) for c in centroids) / 127
    rounded = np.array([round(c / step) * step for c in centroids])
    return rounded[[int(np.argmin(abs(v - rounded))) for v in x]]


@pytest.mark.parametrize("scale", [1000.0, 0.01], ids=["usual", "centroids shrink"])
def test_the_authors_variant_is_its_definition(scale: float) -> None:
    rng = np.random.default_rng(5)
    mu, weights = rng.normal(size=178), scale * rng.uniform(size=178)
    expected = np.concatenate([authors_by_definition(mu[at : at + 64].tolist(), weights[at : at + 64].tolist()) for at in (0, 64, 128)])
    result = authors_codebook(mu, weights)
    assert result.centroids.shape == (3, 8)
    assert result.decode() == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_authors_variant_loses_to_the_exact_one() -> None:
    rng = np.random.default_rng(2)
    mu, weights = rng.normal(size=256), rng.exponential(size=256) ** 2
    exact, theirs = weighted_codebook(mu, weights).decode(), authors_codebook(mu, 1000 * weights).decode()
    assert np.sum(weights * (mu - exact) ** 2) < np.sum(weights * (mu - theirs) ** 2)


def test_the_authors_variant_takes_constants_zeros_and_short_vectors() -> None:
    assert np.array_equal(authors_codebook(np.zeros(64), np.ones(64)).decode(), np.zeros(64))
    assert authors_codebook(np.full(70, 0.5), np.full(70, 1000.0)).decode() == pytest.approx(np.full(70, 0.5))
