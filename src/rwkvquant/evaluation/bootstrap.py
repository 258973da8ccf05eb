"""Error bars by the paired bootstrap over windows.

One draw takes as many windows as there are, with replacement. Every quantity (the KL of each candidate, both perplexities) is computed
on the same draws. So the part of the text's difficulty that all models share cancels in differences. Each mean stays a mean over
tokens: the sums of the drawn windows are divided by the tokens of the drawn windows.
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
    """(low, high): the middle 95 % of `draws`. None for a single window: its draws are all equal and say nothing."""
    if windows < 2:
        return None
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
