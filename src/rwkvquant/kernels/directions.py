"""Codebooks of directions: 2^a unit vectors in eight dimensions, as whole numbers, the same on every machine.

    u  (8,)   a unit vector          E = round(127 u)  (8,) int8          2^a of them are a codebook  (2^a, 8)

A file names a codebook and its CRC-32, and does not hold it. So it is made with whole numbers only: sums of their products are exact
in float32 in any order, and a quotient of two of them is rounded in one way.

    e8       points of the lattice E8, chosen by farthest point (PCDVQ, arXiv:2506.05432)
    random   points in a ball, for comparison: 3 to 9 % more error (docs/methods/polar.md has k-means too, which no file may have)

E8, with doubled coordinates: whole numbers, all even or all odd, whose sum is a multiple of 4. The candidates are the directions of
the fewest whole shells (norms 2, 4, 6, ...) that have 2^a of them: 9,120 up to norm 6, 26,400 up to 8, 56,640 up to 10, 117,120 up to
12. They are sorted by norm, then by coordinates. The first is chosen; then, again and again, the one whose largest cosine with
the chosen ones is smallest, the first of equals.

That rule is followed for all candidates of one such cosine at once. While there are candidates with the smallest largest cosine m, the
next one is the first of them, and choosing it only takes away those that are closer to it than m. So these candidates are gone through
once, in order, and the cosines of the others are brought up to date afterwards.
"""

from __future__ import annotations

import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

LENGTH = 8  # of a vector
ONE = 127  # what a component of 1 becomes
KINDS = ("e8", "random")
BITS = range(12, 17)
SHORTEST = 64  # of the random points, so that rounding changes no direction by much
_BLOCK = 512

Ints = NDArray[np.int64]


@cache
def directions(kind: str, bits: int) -> NDArray[np.int8]:
    """(2**bits, 8) int8, read-only. e8 takes 0.1 s (12 bits), 0.4 s (14 bits) or 5 s (16 bits); made once in a process."""
    made = {"e8": _of_e8, "random": _random}[kind](bits)
    assert checksum(made) == crc32(kind, bits), f"the codebook {kind} of {bits} bits is not that of other machines"
    made.flags.writeable = False
    return made


def crc32(kind: str, bits: int) -> int:
    """The CRC-32 of a codebook, row after row, without making it. KeyError for one that this version does not have."""
    return CHECKSUMS[kind][bits]


def checksum(codebook: NDArray[np.int8]) -> int:
    return zlib.crc32(np.ascontiguousarray(codebook).tobytes())


def units(points: Ints) -> NDArray[np.int8]:
    """(count, 8) whole numbers, none all zero -> round(127 * point / |point|); 254 |x| / |point|, floored, is a root of integers."""
    squares = points * points
    halves = np.floor(np.sqrt((4 * ONE * ONE * squares // squares.sum(1, keepdims=True)).astype(np.float64))).astype(np.int64)
    return (np.sign(points) * ((halves + 1) // 2)).astype(np.int8)


def _of_e8(bits: int) -> NDArray[np.int8]:
    points = candidates(1 << bits)
    return units(points[farthest(points, 1 << bits)])


def candidates(count: int) -> Ints:
    """At least `count` directions of E8, whole shells of them, as lattice points with doubled coordinates: (n, 8), in their order."""
    norm = 2
    while True:
        points = _directions_up_to(norm)
        if len(points) >= count:
            return points
        norm += 2


@cache
def _directions_up_to(norm: int) -> Ints:
    """All points of E8 up to this squared norm, doubled; of points with the same direction the shortest, as (n, 8)."""
    found = []
    for odd in (0, 1):
        values = [value for value in range(-8, 9) if value % 2 == odd and value * value <= 4 * norm]
        points = np.zeros((1, 0), np.int64)
        for _ in range(LENGTH):
            points = np.concatenate([np.c_[points, np.full(len(points), value)] for value in values])
            points = points[(points * points).sum(1) <= 4 * norm]
        found.append(points[points.sum(1) % 4 == 0])
    points = np.concatenate(found)
    points = points[points.any(1)]
    even = (points % 2 == 0).all(1)
    half = points // 2
    twice = even & (half.sum(1) % 4 == 0) & (half % 2 == half[:, :1] % 2).all(1)  # half of it is a point too
    points = points[~twice]
    return points[np.lexsort((*points.T[::-1], (points * points).sum(1)))]


def farthest(points: Ints, count: int) -> NDArray[np.intp]:
    """The numbers of `count` points (n, 8), in the order in which they are chosen."""
    P, norms = points.astype(np.float32), (points * points).sum(1).astype(np.float32)
    nearest = np.full(len(P), -np.inf, np.float32)  # the largest cosine with a chosen point: c |c|, which grows with c
    free = np.ones(len(P), bool)
    chosen: list[int] = []
    while len(chosen) < count:
        m = nearest[free].min()
        picked = _apart(P, norms, np.flatnonzero(free & (nearest == m)), m, count - len(chosen))
        chosen += picked
        free[picked] = False
        if len(chosen) < count:
            _bring_up_to_date(P, norms, nearest, np.flatnonzero(free), np.array(picked))
    return np.array(chosen[:count])


def _cosines(P: NDArray[np.float32], norms: NDArray[np.float32], some: NDArray[np.intp], others: NDArray[np.intp]) -> NDArray[np.float32]:
    """c |c| for the cosines c of points with others. The products are whole numbers below 2^24, so one division rounds."""
    dots = P[some] @ P[others].T
    return np.abs(dots) * dots / (norms[some, None] * norms[others])


def _apart(P: NDArray[np.float32], norms: NDArray[np.float32], level: NDArray[np.intp], m: np.float32, most: int) -> list[int]:
    """The first of `level`, the next that has no cosine above m with it, and so on."""
    picked: list[int] = []
    for start in range(0, len(level), _BLOCK):
        part = level[start : start + _BLOCK]
        for first in range(0, len(picked), 8 * _BLOCK):
            close = _cosines(P, norms, part, np.array(picked[first : first + 8 * _BLOCK])) > m
            part = part[~close.any(1)]
        close, left = _cosines(P, norms, part, part) > m, np.ones(len(part), bool)
        for i, point in enumerate(part):
            if left[i]:
                picked.append(int(point))
                left &= ~close[i]
        if len(picked) >= most:
            break
    return picked


def _bring_up_to_date(
    P: NDArray[np.float32], norms: NDArray[np.float32], nearest: NDArray[np.float32], free: NDArray[np.intp], picked: NDArray[np.intp]
) -> None:
    """Points of one norm together: then the largest product gives the largest cosine, and few divisions are left."""
    for norm in np.unique(norms[picked]):
        others = np.ascontiguousarray(P[picked[norms[picked] == norm]].T)
        for start in range(0, len(free), _BLOCK // 2):
            some = free[start : start + _BLOCK // 2]
            dots = np.full(len(some), -np.inf, np.float32)
            for first in range(0, others.shape[1], 4 * _BLOCK):
                dots = np.maximum(dots, (P[some] @ others[:, first : first + 4 * _BLOCK]).max(1))
            nearest[some] = np.maximum(nearest[some], np.abs(dots) * dots / (norms[some] * norm))


def _random(bits: int) -> NDArray[np.int8]:
    """Points with lengths of 64 to 127: each raw number of PCG64 is eight signed bytes; those that are shorter or longer are left out."""
    source, kept, have = np.random.PCG64(0), [], 0
    while have < 1 << bits:
        points = source.random_raw(1 << 18).astype("<u8").view(np.int8).reshape(-1, LENGTH).astype(np.int32)
        norms = (points * points).sum(1)
        kept.append(points[(norms <= ONE * ONE) & (norms >= SHORTEST * SHORTEST)])
        have += len(kept[-1])
    return units(np.concatenate(kept)[: 1 << bits].astype(np.int64))


CHECKSUMS = {
    "e8": {12: 0x6A598019, 13: 0x8808BBAC, 14: 0x35CC084D, 15: 0x72DCD200, 16: 0x1AE0CC11},
    "random": {12: 0x1E141775, 13: 0x65410A13, 14: 0x50EA9CC0, 15: 0xBCBDEB21, 16: 0x58117C69},
}
