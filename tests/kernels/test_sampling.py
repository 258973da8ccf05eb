"""The native draw is that of the definition, in every body, except for numbers at the very border between two tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.sampling import draw, draw_numpy, probabilities
from tests.kernels.guarded import body

SETTINGS = [(1.0, 1.0), (1.0, 0.7), (0.3, 0.9), (1.7, 0.2), (1e-6, 0.5), (1.0, 0.0), (1e-300, 1.0)]


def scores_of(seed: int, vocab: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return 3 * np.random.default_rng(seed).standard_normal(vocab).astype(np.float32)


FILTERS = [(0, 0.0), (1, 0.0), (3, 0.0), (40, 0.05), (0, 0.3), (0, 1.0), (4096, 1e-300), (5000, 0.0)]  # top_k, min_p


@pytest.mark.parametrize("vocab", [1, 2, 17, 255, 4096])
@pytest.mark.parametrize(("temperature", "top_p"), SETTINGS)
def test_every_body_draws_what_the_definition_draws(vocab: int, temperature: float, top_p: float) -> None:
    for seed in range(4):
        assert_same_draws(scores_of(seed, vocab), temperature, top_p, seed=seed)


@pytest.mark.parametrize("vocab", [1, 2, 17, 255, 4096])
@pytest.mark.parametrize(("top_k", "min_p"), FILTERS)
def test_every_body_filters_by_top_k_and_min_p_as_the_definition_does(vocab: int, top_k: int, min_p: float) -> None:
    for seed, (temperature, top_p) in enumerate(SETTINGS):
        scores = scores_of(seed, vocab)
        assert_same_draws(scores, temperature, top_p, top_k, min_p, seed=seed)
        assert_same_draws(np.round(scores), temperature, top_p, top_k, min_p, seed=seed)  # many equal scores


def assert_same_draws(
    scores: np.ndarray[Any, np.dtype[np.float32]], temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0, *, seed: int
) -> None:
    edges = np.cumsum(probabilities(scores.astype(np.float64), temperature, top_p, top_k, min_p))
    for uniform in np.random.default_rng(seed).random(25):
        if np.abs(edges - uniform).min() < 1e-6:  # float32 weights may fall on the other side
            continue
        want = draw_numpy(scores, temperature, top_p, uniform, top_k, min_p)
        for isa in _native.available_isas():
            with body(isa):
                assert _native.draw(scores, temperature, top_p, uniform, min(top_k, len(scores)), min_p) == want, (isa, seed, uniform)


@pytest.mark.parametrize("kind", ["normal", "equal", "refused", "infinite"])
def test_the_quick_draw_is_the_plain_one(kind: str) -> None:
    rng = np.random.default_rng(11)
    for seed, (top_k, min_p) in enumerate(FILTERS):
        for temperature, top_p in SETTINGS:
            vocab = int(rng.choice([1, 31, 1025, 20000]))
            scores = scores_of(seed, vocab) * np.float32(rng.choice([0.01, 1, 4]))
            if kind == "equal":
                scores = np.round(scores)
            elif kind != "normal":  # half of the tokens cannot be drawn, as with a grammar
                scores[rng.random(vocab) < 0.5] = -1e30 if kind == "refused" else -np.inf
                scores[-1] = 0
            for uniform in (0.0, *rng.random(3), np.nextafter(1, 0)):
                options = (temperature, top_p, float(uniform), min(top_k, vocab), min_p)
                assert _native.draw(scores, *options) == _native.draw_plain(scores, *options), (vocab, options)


def test_a_top_k_above_the_vocabulary_leaves_no_token_out() -> None:
    drawn = {draw(np.array([0, 1, 2], np.float32), 1.0, 1.0, uniform, top_k=10**30) for uniform in (0.05, 0.2, 0.9)}
    assert drawn == {0, 1, 2}


def test_equal_scores_stay_together_however_small_top_p_is() -> None:
    drawn = {_native.draw(np.zeros(4, np.float32), 1.0, 0.1, uniform) for uniform in (0.1, 0.3, 0.6, 0.9)}
    assert drawn == {0, 1, 2, 3}


def test_the_ends_of_the_interval_give_possible_tokens() -> None:
    scores = np.array([-np.inf, 0, -1000, 0, -np.inf], np.float32)
    assert _native.draw(scores, 1.0, 1.0, 0.0) == 1
    assert _native.draw(scores, 1.0, 1.0, np.nextafter(1, 0)) == 3
    assert _native.draw(scores, 1.0, 1.0, 1.0) == 3


def test_no_scores_and_no_temperature_are_refused() -> None:
    with pytest.raises(ValueError, match="there must be scores"):
        _native.draw(np.zeros(0, np.float32), 1.0, 1.0, 0.5)
    with pytest.raises(ValueError, match="temperature is above 0"):
        _native.draw(np.zeros(3, np.float32), 0.0, 1.0, 0.5)
