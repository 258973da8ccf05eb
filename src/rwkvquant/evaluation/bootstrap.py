"""Error bars by the paired bootstrap over windows.

Windows are drawn with replacement, as many as there are. Every quantity (the KL of one candidate, of another, both perplexities)
is computed on the same draw, so that what makes the text easy or hard for all models alike cancels in differences. A mean over
tokens stays one: the drawn windows' sums are divided by the drawn windows' tokens.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95


def resampled_means(
    sums: NDArray[np.float64], tokens: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """sums (quantities, windows), tokens (windows,) -> (quantities, resamples): the mean per token of each quantity on each draw."""
    count = len(tokens)
    random = np.random.default_rng(seed)
    means = np.empty((len(sums), resamples))
    for draw in range(resamples):
        times = np.bincount(random.integers(0, count, count), minlength=count)  # how often each window was drawn
        means[:, draw] = sums @ times / (tokens @ times)
    return means


def interval(draws: NDArray[np.float64], windows: int) -> tuple[float, float] | None:
    """The middle 95 % of the draws; None for a single window, whose draws are all alike and say nothing."""
    if windows < 2:
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
