"""KL by the position of a token in its window: does an error grow in the recurrent state?

Ranges of positions end at powers of two: 1, 2, 3 to 4, 5 to 8, ..., 4097 to 8192. The first predicted token of a window has position 1.
Intervals are of the bootstrap over windows, so that a range's KL over that of another range is paired. Torch is not needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.evaluation.bootstrap import RESAMPLES, interval, resampled_means
from rwkvquant.results import Interval, PositionKL

if TYPE_CHECKING:
    from rwkvquant.evaluation.windows import Windows


@dataclass(frozen=True)
class PositionSums:
    """last (ranges,): the last position of each; sums over the tokens of each range in each window, (ranges, windows).

    `kl` and `nll_base`, of the original, in nats.
    """

    last: NDArray[np.int64]
    tokens: NDArray[np.int64]
    kl: NDArray[np.float64]
    nll_base: NDArray[np.float64]

    @classmethod
    def of(cls, windows: Windows, kl: NDArray[np.float64], nll_base: NDArray[np.float64]) -> PositionSums:
        """kl, nll_base (tokens,) in the order of the text."""
        window, column = windows.mask.nonzero()
        position = column + 1
        range_of = np.ceil(np.log2(position)).astype(np.int64)
        last = 2 ** np.arange(range_of.max() + 1)
        shape = len(last), len(windows)

        def sums(values: NDArray[Any]) -> NDArray[np.float64]:
            return np.bincount(range_of * shape[1] + window, values, shape[0] * shape[1]).reshape(shape).astype(np.float64)

        last[-1] = position.max()
        return cls(last, sums(np.ones(len(position))).astype(np.int64), sums(kl), sums(nll_base))

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> PositionSums:
        return cls(*(np.array(plain[name]) for name in ("last", "tokens", "kl", "nll_base")))

    def to_json(self) -> dict[str, Any]:
        return {name: getattr(self, name).tolist() for name in ("last", "tokens", "kl", "nll_base")}

    def rows(self, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[PositionKL, ...]:
        """Ranges that have tokens."""
        draws, first = self._draws(resamples, seed), np.concatenate([[1], self.last[:-1] + 1])
        return tuple(
            PositionKL(
                first=int(first[at]),
                last=int(self.last[at]),
                tokens=int(self.tokens[at].sum()),
                kl_mean=float(self.kl[at].sum() / self.tokens[at].sum()),
                kl_ci95=self._interval(draws[at], at),
                nll_base=float(self.nll_base[at].sum() / self.tokens[at].sum()),
            )
            for at in np.flatnonzero(self.tokens.any(1)).tolist()
        )

    def growth(self, since: int, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[int, tuple[float, Interval | None]]:
        """By the last position of each range: its KL over that of the range that ends at `since`, with a paired interval."""
        draws, tokens = self._draws(resamples, seed), self.tokens.sum(1)
        start = int(np.flatnonzero(self.last == since)[0])
        means = self.kl.sum(1) / np.maximum(tokens, 1)
        return {
            int(self.last[at]): (float(means[at] / means[start]), self._interval(draws[at] / draws[start], at))
            for at in np.flatnonzero(tokens).tolist()
        }

    def _draws(self, resamples: int, seed: int) -> NDArray[np.float64]:
        """(ranges, resamples); nan where no window of a draw has such positions."""
        with np.errstate(invalid="ignore"):
            return resampled_means(self.kl, self.tokens, resamples=resamples, seed=seed)

    def _interval(self, values: NDArray[np.float64], at: int) -> Interval | None:
        return interval(values[~np.isnan(values)], int((self.tokens[at] > 0).sum()))
