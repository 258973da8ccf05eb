"""The draw of a token, in float64; native/sampling.cpp does it in float32 with sums in float64.

    top_p   keeps the likeliest tokens (temperature 1) until their probabilities reach top_p, and all as likely as the last of them
    p_t     ~ exp(score_t / temperature) among those kept
    token   the first whose cumulative probability is above `uniform`

Note the order: top-p comes before the temperature, as in BlinkDL's programs (ChatRWKV, API_DEMO_CHAT.py), but not in most others.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.dispatch import native_module


def draw(scores: NDArray[np.float32], temperature: float, top_p: float, uniform: float) -> int:
    """(vocab,) finite scores, temperature > 0, uniform in 0..1 -> a token; by the native module where it is built."""
    native = native_module()
    return draw_numpy(scores, temperature, top_p, uniform) if native is None else int(native.draw(scores, temperature, top_p, uniform))


def draw_numpy(scores: NDArray[np.float32], temperature: float, top_p: float, uniform: float) -> int:
    """The definition of `draw`."""
    cumulative = np.cumsum(probabilities(scores.astype(np.float64), temperature, top_p))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def probabilities(scores: NDArray[np.float64], temperature: float, top_p: float) -> NDArray[np.float64]:
    """(vocab,) logits, some finite -> (vocab,) probabilities; 0 for tokens that top-p leaves out."""
    scores = scores - scores.max()  # so that no exponential overflows
    weights = np.exp(scores)
    if top_p < 1:
        total = weights.sum()
        # Tokens below this hold less than 1 - top_p together, so top_p is reached before them: sorting the rest is enough.
        likely = weights[weights >= (1 - top_p) * total / len(weights)]
        falling = np.sort(likely)[::-1]
        last = np.searchsorted(np.cumsum(falling), top_p * total)
        cutoff = falling[min(last, len(falling) - 1)]
        scores[weights < cutoff] = -np.inf
    with np.errstate(over="ignore"):  # with a tiny temperature a score may become -inf; then its probability is 0, as it should be
        weights = np.exp(scores / temperature)
    return weights / weights.sum()
