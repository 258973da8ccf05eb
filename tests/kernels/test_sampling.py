"""The native draw is that of the definition, in every body, except for numbers at the very border between two tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels.sampling import draw_numpy, probabilities
from tests.kernels.guarded import body

SETTINGS = [(1.0, 1.0), (1.0, 0.7), (0.3, 0.9), (1.7, 0.2), (1e-6, 0.5), (1.0, 0.0), (1e-300, 1.0)]


def scores_of(seed: int, vocab: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return 3 * np.random.default_rng(seed).standard_normal(vocab).astype(np.float32)


@pytest.mark.parametrize("vocab", [1, 2, 17, 255, 4096])
@pytest.mark.parametrize(("temperature", "top_p"), SETTINGS)
def test_every_body_draws_what_the_definition_draws(vocab: int, temperature: float, top_p: float) -> None:
    for seed in range(4):
        scores = scores_of(seed, vocab)
        edges = np.cumsum(probabilities(scores.astype(np.float64), temperature, top_p))
        for uniform in np.random.default_rng(seed).random(25):
            if np.abs(edges - uniform).min() < 1e-6:  # float32 weights may fall on the other side
                continue
            want = draw_numpy(scores, temperature, top_p, uniform)
            for isa in _native.available_isas():
                with body(isa):
                    assert _native.draw(scores, temperature, top_p, uniform) == want, (isa, seed, uniform)


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
