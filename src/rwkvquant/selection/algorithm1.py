"""A uniform grid (the papers' SQ) or a codebook (VQ) for each tensor, by two thresholds on its proxies
(RWKVQuant, arXiv:2505.03803, Eq. 18 and Algorithm 1).

    tensor m is SQ  if  P_c(m) < tau_c  and  P_f(m) < tau_f,   else VQ                          Eq. (18)

Algorithm 1 takes the thresholds from the M tensors of the model, with C = 0.5 and F = 0.2:

    tau_c   such that C M tensors have P_c < tau_c
    tau_f   such that F C M of *those* have P_f < tau_f

so that C F = 10 % of the *tensors* become SQ and 90 % VQ, whatever the weights are. Counts are rounded down; in a model
with fewer than 1 / (C F) tensors all are VQ.

The comparison is strict, so tau is the smallest value that is *not* among the k smallest; with the k-th smallest, one tensor would be
missing. Tensors with a value equal to tau are not below it, so ties make the share smaller, never larger, and the result does
not depend on names.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor, inf, nextafter
from typing import Literal

Kind = Literal["uniform", "codebook"]
ProxyPair = tuple[float, float]  # P_c, P_f


@dataclass(frozen=True)
class Thresholds:
    """tau_c and tau_f of Eq. (18)."""

    coarse: float
    fine: float


# The fixed thresholds that the authors give. They make sense only for the reading "unique", which their code computes.
FIXED_THRESHOLDS = {
    "paper-rwkv7": Thresholds(1.54, 30.0),  # section 4.1
    "paper-figure5": Thresholds(1.5, 50.0),
    "readme": Thresholds(1.7781, 135.5616),
}
USUAL = FIXED_THRESHOLDS["paper-rwkv7"]


def algorithm1(proxies: Mapping[str, ProxyPair], coarse_share: float = 0.5, fine_share: float = 0.2) -> tuple[dict[str, Kind], Thresholds]:
    """(P_c, P_f) of each tensor -> its kind, and the thresholds that decided it."""
    thresholds = percentile_thresholds(proxies, coarse_share, fine_share)
    return choose(proxies, thresholds), thresholds


def percentile_thresholds(proxies: Mapping[str, ProxyPair], coarse_share: float = 0.5, fine_share: float = 0.2) -> Thresholds:
    """Algorithm 1, with C = `coarse_share` and F = `fine_share`, both within 0..1."""
    assert 0 <= coarse_share <= 1 and 0 <= fine_share <= 1, (coarse_share, fine_share)
    C, F = Fraction(str(coarse_share)), Fraction(str(fine_share))  # 0.29 of 100 tensors is 29, not floor(28.999..)
    M = len(proxies)
    tau_c = coarse_threshold([p_c for p_c, _ in proxies.values()], coarse_share)
    tau_f = _threshold([p_f for p_c, p_f in proxies.values() if p_c < tau_c], floor(F * C * M))
    return Thresholds(tau_c, tau_f)


def coarse_threshold(coarse: Collection[float], share: float) -> float:
    """tau_c, with C = `share` of the tensors below it."""
    return _threshold(coarse, floor(Fraction(str(share)) * len(coarse)))


def choose(proxies: Mapping[str, ProxyPair], thresholds: Thresholds) -> dict[str, Kind]:
    """Eq. (18), for thresholds from Algorithm 1 or fixed ones."""
    return {name: "uniform" if p_c < thresholds.coarse and p_f < thresholds.fine else "codebook" for name, (p_c, p_f) in proxies.items()}


def _threshold(values: Collection[float], count: int) -> float:
    """A finite number with `count` of the values below it; fewer where there are ties or fewer values."""
    ordered = sorted(values)
    if count < len(ordered):
        return ordered[count]
    return nextafter(ordered[-1], inf) if ordered else 0.0
