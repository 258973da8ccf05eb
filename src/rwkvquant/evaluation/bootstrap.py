"""Error bars by the paired bootstrap over windows of a text, or over images.

One draw takes as many windows as there are, with replacement. Every quantity (the KL of each candidate, both perplexities) is computed
on the same draws. So the part of the text's difficulty that all models share cancels in differences. Each mean stays a mean over
tokens: the sums of the drawn windows are divided by the tokens of the drawn windows.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
LEVEL = 0.95
AT_ONCE = 1 << 20  # windows of several draws, so that a long text needs no more memory


def resampled_means(
    sums: NDArray[np.float64], tokens: NDArray[np.int64], *, resamples: int = RESAMPLES, seed: int = 0
) -> NDArray[np.float64]:
    """sums (quantities, windows) -> (quantities, resamples): the mean per token of each quantity on each draw.

    tokens (windows,), or (quantities, windows) where a quantity is of some tokens only.
    """
    means = [sums @ times / (tokens @ times) for times in blocks_of_draws(sums.shape[1], resamples, seed)]
    return np.concatenate(means, axis=1) if means else np.empty((len(sums), 0))


def draws(count: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """`resamples` times: how often each of `count` windows or images was drawn, (count,)."""
    random = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.bincount(random.integers(0, count, count), minlength=count)


def blocks_of_draws(count: int, resamples: int, seed: int = 0) -> Iterator[NDArray[np.float64]]:
    """The same, many draws at once: (count, draws). Floats, which multiply faster; these whole numbers are exact."""
    random = np.random.default_rng(seed)
    step = max(1, AT_ONCE // max(1, count))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.integers(0, count, (size, count)) + count * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * count).reshape(size, count).T.astype(np.float64)


def interval(values: NDArray[np.float64], windows: int) -> tuple[float, float] | None:
    """(low, high): the middle 95 % of a quantity's `values` on all draws. None for a single window: they are all equal and say nothing."""
    if windows < 2:
        return None
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
