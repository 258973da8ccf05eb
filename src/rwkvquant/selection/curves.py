"""The loss of a kind of codec at any number of stored bytes, from a few candidates: so that SQ and VQ are compared at equal true bits.

Loss falls about exponentially with bits, so between two candidates ln loss is taken as linear in bytes. Below the smallest and above the
largest there is nothing to go by, and the nearest candidate counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, log

Part = tuple[int, float]  # the index of a candidate, and its weight


def neighbours(points: Sequence[tuple[float, float]], size: float) -> list[Part]:
    """(bytes, loss) of candidates -> the one or two that tell the loss at `size` bytes; weights add up to 1.

    Candidates for which another of no more bytes has no more loss are left out.
    """
    useful: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: points[i]):
        if not useful or points[index][1] < points[useful[-1]][1]:
            useful.append(index)
    assert useful, "no candidates"
    above = next((at for at, index in enumerate(useful) if points[index][0] >= size), len(useful))
    if above == 0:
        return [(useful[0], 1.0)]
    if above == len(useful):
        return [(useful[-1], 1.0)]
    below, above = useful[above - 1], useful[above]
    share = (size - points[below][0]) / (points[above][0] - points[below][0])
    return [(above, 1.0)] if share == 1 else [(below, 1 - share), (above, share)]


def between(parts: Sequence[Part], losses: Sequence[float]) -> float:
    """`losses` (of all candidates) at the place that `neighbours` found; linear where one is not positive, as a measured one may be."""
    values = [(losses[index], share) for index, share in parts]
    if all(value > 0 for value, _ in values):
        return exp(sum(share * log(value) for value, share in values))
    return sum(share * value for value, share in values)
