"""Selectors that ask how evenly the sorted weights lie (RWKVQuant, arXiv:2505.03803, Table 6).

    G'_i   the gaps between neighbours of the sorted weights, divided by their sum; n of them (selection/proxy.py)

The paper's table takes variance, CV, range and MAD of G', not of the weights. The mean of G' is 1/n, so CV is n times the deviation, and
the entropy H(G') is ln n - P_c: both differ from their neighbours in this file by the size of a tensor alone.
"""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.selection.algorithm1 import coarse_threshold
from rwkvquant.selection.selectors.registry import Evidence, Score, Scores, Selector, of_each


def _statistic(name: str, sign: int = 1) -> Scores:
    return of_each(lambda one: sign * one.statistics[name])


def _two_stages(tensors: Mapping[str, Evidence], coarse_share: float) -> dict[str, Score]:
    """Algorithm 1 without an end: by P_f, first those below tau_c, then the others."""
    pairs = {name: (one.statistics["coarse"], one.statistics["fine"]) for name, one in tensors.items()}
    tau_c = coarse_threshold([p_c for p_c, _ in pairs.values()], coarse_share)
    return {name: (float(p_c >= tau_c), p_f) for name, (p_c, p_f) in pairs.items()}


ALL = (
    Selector("variance", "the variance of G'", _statistic("variance"), reads=("proxy",)),
    Selector("cv", "the deviation of G' by its mean", _statistic("cv"), reads=("proxy",)),
    Selector("range", "the widest gap less the narrowest", _statistic("range"), reads=("proxy",)),
    Selector("mad", "the mean absolute deviation of G'", _statistic("mad"), reads=("proxy",)),
    Selector("entropy", "the entropy of G', largest first", _statistic("entropy", -1), reads=("proxy",)),
    Selector("coarse", "P_c", _statistic("coarse"), reads=("proxy",)),
    Selector("fine", "P_f", _statistic("fine"), reads=("proxy", "order")),
    Selector("coarse+fine", "P_f, of those below tau_c first", _two_stages, reads=("proxy", "order", "coarse_share")),
)
