"""RWKVQuant's two proxies for "are these weights uniform?" (arXiv:2505.03803, section 3.2, Eq. 5-17).

    W   any shape      the weights             W'_1 <= W'_2 <= ...   the same, sorted
    n                  the number of gaps      y_i = n G'_i          a gap in units of the mean gap

    G_i  = W'_{i+1} - W'_i                                       Eq. (5)
    G'_i = G_i / sum_j G_j                                       Eq. (6)
    P_c  = ln n + sum_i G'_i ln G'_i                             Eq. (7), (9)       "coarse": 0 for equal gaps
    M_k  = (1/n) sum_i (G'_i - 1/n)^k
    P_f  = sum_{k=2..K} n^k / (k (k-1)) |M_k|,  K = 4            Eq. (15)-(17)      "fine": the Taylor series of P_c

Eq. (17) drops the sign s_k = (-1)^k of Eq. (16). Without alternating signs the series does not converge to P_c.

Eq. (9) subtracts two numbers near ln n, and Eq. (17) multiplies n^6 = 1e43 by M_6 = 1e-43. With y nothing cancels, and numbers stay
near 1. The y have the mean 1, so

    P_c = mean(y ln y - (y - 1))         no term is negative
    P_f = sum_k |m_k| / (k (k-1)),       m_k = mean((y - 1)^k)

The paper can be read in three ways; they differ in which gaps are counted:

    paper      all n = size - 1 gaps; ties give gaps of 0, and 0 ln 0 = 0
    unique     every distinct gap value once, without 0: what the authors' code does
    dithered   all gaps, after each weight is moved by up to half a step of its source dtype, so that there are no ties

Gives up: the proxies see one sorted list. They do not know which weights share a scale, or which weights matter. All but `dithered`
mostly see the number format that the weights were saved in (docs/methods/proxy.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

READINGS = ("paper", "unique", "dithered")
LARGEST_ORDER = 6
ORDERS = range(2, LARGEST_ORDER + 1)  # K of Eq. (17)
CHUNK = 1 << 20  # gaps computed at a time: temporaries of a few times 8 MB for a tensor of any size

FloatArray = NDArray[np.floating]


@dataclass(frozen=True)
class Proxies:
    """P_c, the central moments that give P_f for every K, and what the paper's Table 6 compares them with.

    gaps: n, the number of gaps that were counted. moments: m_2 .. m_6, m_k = mean of (n G'_i - 1)^k. width: the largest n G'_i less the
    smallest. deviation: the mean of |n G'_i - 1|.
    """

    gaps: int
    coarse: float
    moments: tuple[float, ...]
    width: float
    deviation: float

    def fine(self, order: int = 4, signed: bool = False) -> float:
        """P_f up to K = `order` (2..6), by Eq. (17); or, if `signed`, the Taylor series of Eq. (15), with s_k."""
        assert order in ORDERS, order
        total = 0.0
        for k, moment in zip(range(2, order + 1), self.moments, strict=False):
            total += ((-1) ** k * moment if signed else abs(moment)) / (k * (k - 1))
        return total

    def statistics(self) -> dict[str, float]:
        """variance, cv, range, mad and entropy of G', whose mean is 1/n; all 0 where there are no gaps."""
        n = max(1, self.gaps)
        return {
            "variance": self.moments[0] / n**2,
            "cv": math.sqrt(self.moments[0]),
            "range": self.width / n,
            "mad": self.deviation / n,
            "entropy": math.log(n) - self.coarse,
        }


@dataclass(frozen=True)
class SourceStep:
    """The steps of a number format: `digits` significant bits, and no step below 2**smallest."""

    digits: int
    smallest: int


SOURCE_STEPS = {"float16": SourceStep(11, -24), "bfloat16": SourceStep(8, -133), "float32": SourceStep(24, -149)}


def proxies(W: FloatArray, reading: str = "paper", source_dtype: str = "float32", seed: int = 0) -> Proxies:
    """W of any shape -> its proxies, in float64. They depend on the values only, never on their order.

    `source_dtype` (in SOURCE_STEPS, others count as float32: the type in the checkpoint, not W's) and `seed` are for "dithered" only.
    A tensor with one weight, or with equal weights, has no gap: all its proxies are 0.

    Memory: a sorted copy of W (in float64 for "dithered"), and the distinct gaps for "unique".
    """
    assert reading in READINGS, reading
    ordered = np.sort(W, axis=None)
    if reading == "dithered":
        ordered = _dither(ordered, SOURCE_STEPS.get(source_dtype, SOURCE_STEPS["float32"]), seed)
    if reading == "unique":
        gaps = _distinct_gaps(ordered)
        return _from_gaps([gaps], len(gaps), float(gaps.sum()))
    if ordered.size < 2:
        return _from_gaps([], 0, 0.0)
    width = float(ordered[-1]) - float(ordered[0])  # = the sum of all gaps
    return _from_gaps(_gaps(ordered), ordered.size - 1, width)


def saved_in(W: NDArray[np.float32], dtype: str) -> str:
    """The type whose steps the weights W have, for `proxies`: bfloat16 where it holds all of them exactly; else `dtype`, the checkpoint's.

    A checkpoint that was converted from bfloat16 keeps bfloat16's gaps. Moved by the finer steps of its own type they would stay gaps.
    """
    return "bfloat16" if np.array_equal(W, in_bfloat16(W)) else dtype


def in_bfloat16(W: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(W).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def incoherence(W: FloatArray) -> float:
    """max |W| sqrt(size) / |W|_F, QuIP's mu, by which the authors' public command decides; 0 for a tensor of zeros."""
    norm = float(np.sqrt(np.square(W, dtype=np.float64).sum()))
    return float(np.abs(W).max()) * np.sqrt(W.size) / norm if norm else 0.0


def _from_gaps(chunks: Iterator[NDArray[np.float64]] | list[NDArray[np.float64]], count: int, total: float) -> Proxies:
    """G in chunks, their number and their sum -> the proxies."""
    sums = np.zeros(LARGEST_ORDER)  # of the terms of P_c, then of (y-1)^2 .. (y-1)^6
    deviations, least, most = 0.0, math.inf, 0.0
    if total > 0:
        for gaps in chunks:
            y = gaps / total * count  # n G'_i; the division first, as count / total may overflow
            x = y - 1
            y_log_y = np.where(y > 0, y * np.log1p(np.maximum(x, np.nextafter(-1, 0))), 0.0)
            sums[0] += np.sum(y_log_y - x)
            power = x.copy()
            for k in range(2, LARGEST_ORDER + 1):
                power *= x
                sums[k - 1] += np.sum(power)
            deviations += float(np.sum(np.abs(x)))
            least, most = min(least, float(y.min())), max(most, float(y.max()))
    coarse, *moments = (sums / max(1, count)).tolist()
    return Proxies(count, max(0.0, coarse), tuple(moments), max(0.0, most - least), deviations / max(1, count))


def _gaps(ordered: FloatArray) -> Iterator[NDArray[np.float64]]:
    """Eq. (5), chunk by chunk. float64, as the difference of two float32 numbers need not be one."""
    for start in range(0, ordered.size - 1, CHUNK):
        yield np.diff(ordered[start : start + CHUNK + 1].astype(np.float64))


def _distinct_gaps(ordered: FloatArray) -> NDArray[np.float64]:
    distinct = np.empty(0)
    for gaps in _gaps(ordered):
        distinct = np.union1d(distinct, gaps[gaps > 0])
    return distinct


def _dither(ordered: FloatArray, step: SourceStep, seed: int) -> NDArray[np.float64]:
    """Each weight moved by a uniform random number within +- half its format's step at that weight, and sorted again.

    Weights are moved in sorted order, so that the result does not depend on a weight's place in the tensor. At a power of two the
    step below is half the step above; both sides get the larger one, so this one value can move a little too far.
    """
    moved = ordered.astype(np.float64)
    random = np.random.default_rng(seed)
    for start in range(0, moved.size, CHUNK):
        part = moved[start : start + CHUNK]
        exponent = np.where(part == 0, step.smallest, np.frexp(part)[1] - step.digits)
        part += np.ldexp(random.random(part.size) - 0.5, np.maximum(exponent, step.smallest))
    moved.sort()
    return moved
