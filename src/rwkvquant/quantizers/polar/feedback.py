"""Codes with error feedback over vectors of eight columns (LDLQ of QuIP#, arXiv:2402.04396), for directions and magnitudes.

    W  (out, in)   weight      H  (in, in)   X^T X / tokens, damped      U  upper triangular, H^-1 = U^T U, of the columns in the order
    P  eight neighbouring columns    T = U_PP  (8, 8)                       of rounding, those of a vector side by side

The derivation is that of pairs/gptvq.py with eight columns for two. A vector with the error e costs |a|^2 with a = e T^-1 when the
columns after it make up for it as well as possible, and then w_F -= a U_PF. With y = w T^-1 and v = u T^-1 for each direction u, a code
costs |y - c v|^2: the nearest direction is the one of assign.py, among the directions v. In the style of the paper, which has no
feedback, a vector takes the nearest u and the level of its length, as QuIP# rounds.

Vectors are taken in falling order of the sums of their columns' H_jj. Row scales come from the weights, times the typical cosine
of a vector with its direction; after the last column each is fitted once, s = (w H q^T) / (q H q^T), which never raises the loss by
more than float16 rounds.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import PolarConfig, PolarTensor
from rwkvquant.kernels.directions import LENGTH, directions
from rwkvquant.kernels.gemv_polar import LEVELS
from rwkvquant.quantizers.polar.assign import codebook, level_of, nearest, typical_cosine
from rwkvquant.quantizers.polar.levels import levels
from rwkvquant.quantizers.polar.plain import deviation, half_scale, polar_tensor, unit
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.shared.limits import LARGEST_HALF, SMALLEST_HALF
from rwkvquant.quantizers.shared.loss import row_losses

BLOCK = 128  # columns between products with all later ones


def factorize_vectors(H: Tensor, *, damping: float, act_order: bool) -> InverseFactor:
    """As factorize, with the columns of a vector side by side; columns of zeros fill up the last one."""
    H = torch.nn.functional.pad(H, (0, -len(H) % LENGTH, 0, -len(H) % LENGTH))
    sums = H.diagonal().view(-1, LENGTH).sum(1)
    order = sums.argsort(descending=True, stable=True) if act_order else torch.arange(len(sums), device=H.device)
    columns = (LENGTH * order[:, None] + torch.arange(LENGTH, device=H.device)).flatten()
    factor = factorize(H[columns][:, columns], damping=damping, act_order=False)
    return InverseFactor(factor.U, columns, H.diagonal().clone(), factor.damping)


def feedback_codes(factor: InverseFactor, W: Tensor, H: Tensor, config: PolarConfig, tuned: bool, refit: bool) -> PolarTensor:
    """W (rows, cols), H (cols, cols), and its factor by factorize_vectors -> the logical tensor."""
    cosine = typical_cosine(config.directions, config.direction_bits) if tuned else 1.0
    row_scale = half_scale(deviation(W) * cosine, config)
    direction, level = walk(factor, W, row_scale, config, tuned)
    q = polar_tensor(direction, level, row_scale, config, W.shape[1])
    return refitted(W, H, q) if refit else q


def walk(factor: InverseFactor, W: Tensor, row_scale: Tensor, config: PolarConfig, tuned: bool) -> tuple[Tensor, Tensor]:
    """Directions and levels (rows, vectors) int64 for W (rows, cols) and given row scales (rows, 1)."""
    (rows, cols), U, order = W.shape, factor.U, factor.order
    u, c = codebook(config.directions, config.direction_bits).to(W), levels(config.magnitude_bits).to(W)
    E = torch.tensor(directions(config.directions, config.direction_bits)).to(W.device)
    L = torch.tensor(LEVELS[config.magnitude_bits], dtype=torch.int32).to(W.device)
    s = unit(row_scale, config)
    W = torch.nn.functional.pad(W, (0, len(order) - cols))[:, order]  # a copy, corrected in place
    direction, level = (torch.empty(rows, len(order) // LENGTH, dtype=torch.int64, device=W.device) for _ in range(2))
    for start in range(0, len(order), BLOCK):
        stop = min(start + BLOCK, len(order))
        block, a = W[:, start:stop], torch.zeros(rows, stop - start, dtype=W.dtype, device=W.device)
        for i in range(0, stop - start, LENGTH):
            here, after = slice(start + i, start + i + LENGTH), slice(start + i + LENGTH, stop)
            T, there = U[here, here], order[here] < cols
            w = block[:, i : i + LENGTH]
            x = w / s
            if tuned:
                v = torch.linalg.solve_triangular(T, u, upper=True, left=False) * there  # u T^-1, (2^a, 8)
                code, length = nearest(torch.linalg.solve_triangular(T, x, upper=True, left=False), v)
            else:
                code, length = nearest(x, u * there)[0], x.norm(dim=1)
            of_length = level_of(length, c)
            vector = int(order[here.start]) // LENGTH
            direction[:, vector], level[:, vector] = code, of_length
            numbers = (E[code].int() * L[of_length, None] + (1 << 14)) >> 15
            e = (w - row_scale * numbers.to(W)) * there
            a[:, i : i + LENGTH] = torch.linalg.solve_triangular(T, e, upper=True, left=False)
            block[:, i + LENGTH :].addmm_(a[:, i : i + LENGTH], U[here, after], alpha=-1)
        W[:, stop:].addmm_(a, U[start:stop, stop:], alpha=-1)
    return direction, level


def refitted(W: Tensor, H: Tensor, q: PolarTensor) -> PolarTensor:
    """q with the row scales of least loss for its codes; a row keeps its own where float16 rounds the better one to a worse."""
    Q = torch.from_numpy(q.decode()).to(W)
    QH = Q @ H
    energy = (QH * Q).sum(1)
    ideal = torch.from_numpy(q.row_scale).to(W) * torch.where(energy > 0, (QH * W).sum(1) / energy, 1.0)
    new = replace(q, row_scale=ideal.clamp(SMALLEST_HALF, LARGEST_HALF).cpu().numpy().astype(np.float16))
    better = (row_losses(W, new.decode(), H) < row_losses(W, Q, H)).cpu().numpy()
    return replace(q, row_scale=np.where(better, new.row_scale, q.row_scale))
