"""Uniform grids (SQ) for a given share of the weights: the tensors of least score, as long as that brings the share nearer."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from itertools import groupby

from rwkvquant.selection.algorithm1 import Kind
from rwkvquant.selection.selectors.registry import Score


def by_share(scores: Mapping[str, Score], weights: Mapping[str, int], share: float) -> dict[str, Kind]:
    """The kind of each tensor. Tensors with equal scores get the same, so that names and their order decide nothing.

    `share` is from 0 (all VQ) to 1 (all SQ). What is reached is within half of the largest tensor, or of the largest group of equal ones.
    """
    assert 0 <= share <= 1, share
    left = Fraction(str(share)) * sum(weights[name] for name in scores)
    kinds: dict[str, Kind] = dict.fromkeys(scores, "codebook")
    for _, equal in groupby(sorted(scores, key=scores.__getitem__), key=scores.__getitem__):
        names = list(equal)
        size = sum(weights[name] for name in names)
        if 2 * left < size or not left:
            break
        kinds |= dict.fromkeys(names, "uniform")
        left -= size
    return kinds
