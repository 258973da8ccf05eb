"""The KL of a range of positions is the mean over its tokens, whatever the windows' lengths."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rwkvquant.evaluation.divergence import compare
from rwkvquant.evaluation.positions import PositionSums
from rwkvquant.evaluation.windows import Windows
from tests.evaluation.toys import random_bigram, some_windows


def test_ranges_end_at_powers_of_two_and_hold_every_token_once() -> None:
    windows = some_windows(lengths=(40, 7, 16, 1, 33), context=16)
    compared = compare(random_bigram(1), random_bigram(2), windows)
    rows = compared.by_position().rows()
    assert [(row.first, row.last) for row in rows] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16)]
    position = windows.mask.nonzero()[1] + 1
    for row in rows:
        chosen = (row.first <= position) & (position <= row.last)
        assert row.tokens == chosen.sum()
        assert row.kl_mean == pytest.approx(compared.kl[chosen].mean(), rel=1e-12)
        assert row.nll_base == pytest.approx(compared.nll_base[chosen].mean(), rel=1e-12)
        assert row.kl_ci95 is not None and row.kl_ci95[0] <= row.kl_mean <= row.kl_ci95[1]
    assert sum(row.tokens for row in rows) == windows.tokens


def test_positions_that_are_not_predicted_are_left_out() -> None:
    """LAMBADA's windows predict the last tokens only."""
    windows = Windows.from_rows([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4]], [4, 3], 9)
    sums = PositionSums.of(windows, np.array([1.0, 2.0, 3.0, 4.0]), np.zeros(4))
    assert [(row.first, row.last, row.tokens, row.kl_mean) for row in sums.rows()] == [(3, 4, 3, 8 / 3), (5, 5, 1, 2.0)]
    assert sums.rows()[1].kl_ci95 is None  # one window


def test_an_error_that_grows_with_the_position_is_found_and_none_where_there_is_none() -> None:
    """KL of (1 + position / 16) or of 1, times the difficulty of the window, which cancels in the ratio."""
    random = np.random.default_rng(0)
    windows = Windows.from_rows([[0] * 65] * 40, [1] * 40, 1)
    hard = np.repeat(random.gamma(1, 1, 40), 64)
    position = np.tile(np.arange(1, 65), 40)
    noise = random.gamma(4, 0.25, 40 * 64)
    for slope, wanted in ((1 / 16, (1 + 48.5 / 16) / (1 + 12.5 / 16)), (0.0, 1.0)):
        growth = PositionSums.of(windows, hard * noise * (1 + slope * position), np.zeros(40 * 64)).growth(16)
        ratio, bounds = growth[64]
        assert bounds is not None and bounds[0] < wanted < bounds[1] and bounds[1] - bounds[0] < 0.3 * wanted
        assert growth[16] == (1.0, (1.0, 1.0))
        assert ratio == pytest.approx(wanted, rel=0.1)


def test_sums_are_json_and_come_back() -> None:
    sums = compare(random_bigram(1), random_bigram(2), some_windows()).by_position()
    again = PositionSums.from_json(json.loads(json.dumps(sums.to_json())))
    assert again.rows() == sums.rows() and again.growth(8) == sums.growth(8)
