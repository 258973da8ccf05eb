"""From logits to the next token: penalties, top-p and temperature as in BlinkDL's chat (ChatRWKV, API_DEMO_CHAT.py).

    n_t     how often token t has been chosen, fading: after each choice all n are multiplied by penalty_decay, then the chosen one gains 1
    logit_t -= presence_penalty + frequency_penalty * n_t         for every token chosen before

kernels/sampling.py has top-k, top-p, min-p, temperature and the draw, in this order.
"""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.sampling import draw

MAX_PENALTY = 1e9  # of either sign: far beyond any logit, and a million of them are still finite in float32


@dataclass(frozen=True)
class SamplingConfig:
    """`temperature` 0 takes the likeliest token. With the same seed the same logits give the same tokens; None draws a new seed each time.

    `top_k` 0, `top_p` 1 and `min_p` 0 leave no token out. kernels/sampling.py has their order.
    Raises ConfigError for a value out of range.
    """

    temperature: float = 1.0
    top_p: float = 0.7
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    penalty_decay: float = 0.996
    seed: int | None = None
    top_k: int = 0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        _require_between("temperature", self.temperature, 0, math.inf)
        _require_between("top_p", self.top_p, 0, 1)
        _require_between("presence_penalty", self.presence_penalty, -MAX_PENALTY, MAX_PENALTY)
        _require_between("frequency_penalty", self.frequency_penalty, -MAX_PENALTY, MAX_PENALTY)
        _require_between("penalty_decay", self.penalty_decay, 0, 1)
        if isinstance(self.top_k, bool) or not hasattr(self.top_k, "__index__") or self.top_k < 0:
            raise ConfigError(f"top_k must be a whole number of at least 0, which is off; got {self.top_k!r}")
        _require_between("min_p", self.min_p, 0, 1)
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"seed must not be negative; got {self.seed}")


class SamplingOptions(TypedDict, total=False):
    """The fields of SamplingConfig, as keywords of `Model.generate`, `Model.stream` and `Chat`."""

    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    penalty_decay: float
    seed: int | None
    top_k: int
    min_p: float


def sampling_of(sampling: SamplingConfig | None, options: SamplingOptions) -> SamplingConfig:
    """The sampling that a caller asks for, as a whole or by single options.

    Raises ConfigError for both at once, for an unknown option, and for a value out of range.
    """
    if sampling is not None and options:
        raise ConfigError(f"give either sampling=SamplingConfig(...) or single options; got both, with {', '.join(options)}")
    if unknown := [name for name in options if name not in SamplingOptions.__annotations__]:
        raise ConfigError(f"the sampling options are {', '.join(SamplingOptions.__annotations__)}; got {', '.join(unknown)}")
    return sampling or SamplingConfig(**options)


class Sampler:
    """Chooses one token after another, and remembers what it chose for the penalties.

    `seed` is the one in use: that of the options, or the one that was drawn. It repeats the choices.
    """

    def __init__(self, config: SamplingConfig) -> None:
        self.config = config
        self.seed = secrets.randbelow(1 << 32) if config.seed is None else config.seed
        self._random = np.random.Generator(np.random.PCG64(self.seed))
        self._occurrences: dict[int, float] = {}
        self._penalised = config.presence_penalty != 0 or config.frequency_penalty != 0

    def next(self, logits: NDArray[np.float32]) -> int:
        """(vocab,) logits -> a token. Greedy takes the lowest id of equal ones. Raises ConfigError if the largest is not finite."""
        scores = logits.astype(np.float32, copy=self._penalised)
        if self._penalised:
            for token, count in self._occurrences.items():
                scores[token] -= self.config.presence_penalty + self.config.frequency_penalty * count
        top = scores.max()
        if not math.isfinite(top):
            raise ConfigError(f"logits must be finite; the largest is {top}. The model's weights or its state are damaged.")
        if self.config.temperature == 0:
            token = int(scores.argmax())
        else:
            config = self.config
            token = draw(scores, config.temperature, config.top_p, self._random.random(), config.top_k, config.min_p)
        if self._penalised:
            self._remember(token)
        return token

    def forget(self) -> None:
        """Forget all choices for the penalties; the random numbers continue."""
        self._occurrences.clear()

    def _remember(self, token: int) -> None:
        for seen in self._occurrences:
            self._occurrences[seen] *= self.config.penalty_decay
        self._occurrences[token] = self._occurrences.get(token, 0.0) + 1.0


def _require_between(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        allowed = f"of at least {low:g}" if high == math.inf else f"from {low:g} to {high:g}"
        raise ConfigError(f"{name} must be a number {allowed}; got {value:g}")
