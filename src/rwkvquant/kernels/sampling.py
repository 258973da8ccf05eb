"""The draw of a token, in float64; native/sampling.cpp does it in float32 with sums in float64.

Three filters, in this order, then the temperature:

    top_k   keeps the k likeliest tokens, and all as likely as the last of them
    top_p   keeps the likeliest of these until they have the share top_p of what these have together (at temperature 1), and all as
            likely as the last of them
    min_p   keeps those at least min_p times as likely as the likeliest (at temperature 1)
    p_t     ~ exp(score_t / temperature) among those kept
    token   the first whose cumulative probability is above `uniform`

The likeliest token is always kept. 0 turns top_k and min_p off, 1 turns top_p off.

The order is llama.cpp's default. BlinkDL's programs (ChatRWKV, API_DEMO_CHAT.py) have top-p before the temperature too. Two differences:
llama.cpp's top-k keeps exactly k of equal tokens, and the `rwkv` package takes top_p's share of all tokens even if it has a top_k.
Transformers applies the temperature first, so the same top_p and min_p there mean something else unless the temperature is 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rwkvquant.kernels.dispatch import native_module


def draw(scores: NDArray[np.float32], temperature: float, top_p: float, uniform: float, top_k: int = 0, min_p: float = 0.0) -> int:
    """(vocab,) finite scores, temperature > 0, uniform in 0..1 -> a token; by the native module where it is built."""
    top_k = min(top_k, len(scores))  # any Python integer
    native = native_module()
    if native is None:
        return draw_numpy(scores, temperature, top_p, uniform, top_k, min_p)
    return int(native.draw(scores, temperature, top_p, uniform, top_k, min_p))


def draw_numpy(scores: NDArray[np.float32], temperature: float, top_p: float, uniform: float, top_k: int = 0, min_p: float = 0.0) -> int:
    """The definition of `draw`."""
    cumulative = np.cumsum(probabilities(scores.astype(np.float64), temperature, top_p, top_k, min_p))
    return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))


def probabilities(scores: NDArray[np.float64], temperature: float, top_p: float, top_k: int = 0, min_p: float = 0.0) -> NDArray[np.float64]:
    """(vocab,) logits, some finite -> (vocab,) probabilities; 0 for tokens that a filter leaves out."""
    if 0 < top_k < len(scores):
        scores = np.where(scores >= np.partition(scores, -top_k)[-top_k], scores, -np.inf)
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
    if min_p > 0:
        scores[scores < np.log(min_p)] = -np.inf  # of scores and not of weights: with min_p 1 only equal scores stay
    with np.errstate(over="ignore"):  # with a tiny temperature a score may become -inf; then its probability is 0, as it should be
        weights = np.exp(scores / temperature)
    return weights / weights.sum()
