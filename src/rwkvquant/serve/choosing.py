"""From logits to a token: the sampler of the runtime, after a bias and a constraint; and log-probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.runtime.sampling import Sampler, SamplingConfig
from rwkvquant.runtime.session import Logits
from rwkvquant.serve.jobs import Scored

REFUSED = np.float32(-1e30)  # a logit that is never chosen; infinity would not survive the arithmetic of the sampler


class Constraint(Protocol):
    """What may come next, as in a grammar. Token 0 is allowed where the text may end."""

    def allowed(self) -> NDArray[np.bool_]:
        """(vocab,) whether each token may be next."""
        ...

    def take(self, token: int) -> None:
        """This token was chosen."""
        ...

    @property
    def ended(self) -> bool:
        """Whether nothing may follow."""
        ...


class Chooser:
    """Chooses the tokens of one answer."""

    def __init__(self, sampling: SamplingConfig, bias: Mapping[int, float], constraint: Constraint | None = None) -> None:
        self._sampler = Sampler(sampling)
        self._tokens = np.array(list(bias), np.intp)
        self._amounts = np.array(list(bias.values()), np.float32)
        self._constraint = constraint

    @property
    def ended(self) -> bool:
        return self._constraint is not None and self._constraint.ended

    def next(self, logits: Logits) -> int:
        """(vocab,) -> a token. `logits` are changed meanwhile. Raises ConfigError for logits that are not finite."""
        if not len(self._tokens):
            return self._chosen(logits)
        before = logits[self._tokens]
        logits[self._tokens] += self._amounts
        try:
            return self._chosen(logits)
        finally:
            logits[self._tokens] = before

    def _chosen(self, logits: Logits) -> int:
        if self._constraint is None:
            return self._sampler.next(logits)
        token = self._sampler.next(np.where(self._constraint.allowed(), logits, REFUSED))
        self._constraint.take(token)
        return token


def scored(logits: Logits, token: int, count: int, offset: int = 0) -> Scored:
    """(vocab,) -> the log-probability of `token`, and the `count` likeliest tokens, the likeliest first."""
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    count = min(count, len(exact))
    likely: list[int] = np.argpartition(-exact, count - 1)[:count].tolist() if count else []
    ordered = sorted(likely, key=lambda each: (-exact[each], each))
    return Scored(token, float(exact[token]), tuple((each, float(exact[each])) for each in ordered), offset)


def scored_rows(rows: Sequence[Logits] | Logits, tokens: Sequence[int], count: int) -> list[Scored]:
    """The same for each row and the token after it."""
    return [scored(row, token, count) for row, token in zip(rows, tokens, strict=True)]
