"""Codebooks for the vectors of element-wise products (RWKVQuant, arXiv:2505.03803, section 3.3, Eq. 19).

    mu  (n,)  the vector      X  (tokens, n)  what it is multiplied with      w  (n,)  importance of each element

    L = || X o mu - X o Q(mu) ||_F^2  =  sum_i  (sum_t X_ti^2) (mu_i - Q(mu)_i)^2                  Eq. (19)

The loss is a weighted 1-D k-means of mu, and its weights follow from it: w_i = E[X_i^2]. calibration/statistics/importance.py has this
w (a "reading" of the paper) and two others.

ElementwiseCodebook has real centroids, as in the papers; `stored_codebook` rounds them to what a file can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.shared.clustering import exact_kmeans, nearest_codes
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF

AUTHORS_ROUNDS = 100
AUTHORS_GROUP = 64

Array = Tensor | NDArray[np.floating]


@dataclass(frozen=True)
class ElementwiseCodebook:
    """codes (n,) uint8, centroids (groups, 2**bits) float32; every `group_size` neighbours share one; the last group may be short."""

    codes: NDArray[np.uint8]
    centroids: NDArray[np.float32]
    group_size: int

    def decode(self) -> NDArray[np.float32]:
        """(n,) float32."""
        group = np.arange(len(self.codes)) // self.group_size
        return self.centroids[group, self.codes]


def vector_codebook(mu: Array, importance: Array, bits: int, reading: str) -> CodebookTensor:
    """mu (n,) and importance (n,) of this reading -> (1, n) as stored. The reading "authors" uses their method, others the least loss."""
    codebook = authors_codebook(mu, importance) if reading == "authors" else weighted_codebook(mu, importance, bits)
    return stored_codebook(mu, codebook, bits)


def weighted_codebook(mu: Array, importance: Array, bits: int = 3, group_size: int = 64) -> ElementwiseCodebook:
    """mu (n,), importance (n,), none negative -> the codebooks of least loss, Eq. (19), and nearest codes.

    In a group whose importance is 0 everywhere, all elements count equally.
    """
    points, weights = _groups(mu, group_size), _groups(importance, group_size, fill=0.0)
    inside = _groups(torch.ones(len(mu)), group_size, fill=0.0)
    weights = torch.where(weights.sum(1, keepdim=True) > 0, weights, inside)
    centroids = exact_kmeans(points, weights, 2**bits).float()
    return _encode(mu, points, centroids, group_size)


def authors_codebook(mu: Array, importance: Array) -> ElementwiseCodebook:
    """The authors' code: 8 centroids for each 64 neighbours, rounded to 8 bits; 4 bits per weight. Not Eq. (19):

        assign    to the nearest centroid, in every round and at the end, without importance
        average   c = sum w mu / max(1, sum w) over a cluster: centroids of unimportant clusters shrink towards 0

    from 8 points evenly spaced in the order of their distance from the group's mean, `AUTHORS_ROUNDS` times. With importance 1
    everywhere it is plain k-means. Two things are not copied: their code drops the first calibration sample, and it groups
    r_k in blocks of 2 heads x 32, not by 64 in a row.
    """
    k = 8
    points, weights = _groups(mu, AUTHORS_GROUP), _groups(importance, AUTHORS_GROUP, fill=0.0)
    inside = _groups(torch.ones(len(mu)), AUTHORS_GROUP, fill=0.0)  # a short last group is filled up with its last element

    distance = (points - points.mean(1, keepdim=True)).square()
    picked = torch.linspace(0, points.shape[1] - 1, k).round().long()
    centroids = points.gather(1, distance.argsort(dim=1, stable=True)[:, picked]).sort(1).values
    for _ in range(AUTHORS_ROUNDS):
        codes = nearest_codes(points, centroids).long()
        members, weight, total = (torch.zeros_like(centroids).scatter_add_(1, codes, part) for part in (inside, weights, weights * points))
        centroids = torch.where(members > 0, total / weight.clamp(min=1), centroids).sort(1).values

    step = centroids.abs().amax(1, keepdim=True) / 127
    rounded = torch.where(step > 0, (centroids / step).round() * step, 0.0)
    return _encode(mu, points, rounded.float(), AUTHORS_GROUP)


def stored_codebook(mu: Array, codebook: ElementwiseCodebook, bits: int) -> CodebookTensor:
    """mu (n,) and its codebooks -> (1, n) with centroids of 7 bits, one float16 scale, and the nearest codes."""
    low, high = -CENTROID_ZERO, 127 - CENTROID_ZERO
    real = torch.from_numpy(codebook.centroids).double()
    reach = max(float(real.max()) / high, float(real.min()) / low)
    scale = np.float16(min(max(reach, SMALLEST_HALF), LARGEST_HALF))
    whole = (real / float(scale)).round().clamp(low, high).sort(1).values
    points = _groups(mu, codebook.group_size) / float(scale)
    codes = nearest_codes(points, whole).flatten()[: len(mu)]
    tables = (whole + CENTROID_ZERO).to(torch.uint8).numpy()[None]
    return CodebookTensor(codes.numpy()[None], bits, tables, np.array([scale]), 1, codebook.group_size)


def _groups(vector: Array, group_size: int, fill: float | None = None) -> Tensor:
    """(n,) -> (groups, group_size) float64, a short last group filled up with its last element, or with `fill`.

    Always on the CPU: the vector is short, and importance and what is stored are on the CPU.
    """
    x = torch.as_tensor(vector).cpu().double()
    missing = -len(x) % group_size
    tail = x[-1:].expand(missing) if fill is None else x.new_full((missing,), fill)
    return torch.cat([x, tail]).view(-1, group_size)


def _encode(mu: Array, points: Tensor, centroids: Tensor, group_size: int) -> ElementwiseCodebook:
    codes = nearest_codes(points, centroids.double()).flatten()[: len(mu)]
    return ElementwiseCodebook(codes.cpu().numpy(), centroids.cpu().numpy(), group_size)
