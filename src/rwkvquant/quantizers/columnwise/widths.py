"""How many bits the codes of each column get: the least loss for a given sum.

    cost_c    the loss of column c if its codes had no bits: sum of its squared weights, times what later columns cannot undo of it
    loss      sum_c cost_c error(width_c)         error(w): of the best table of 2^w entries for normally distributed weights

Each more bit of a column saves less than the one before, so the best choice takes the steps that save most for a bit, in order.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rwkvquant.kernels.gemv_sections import WIDTHS

ERROR = {2: 0.1175, 3: 0.03454, 4: 0.009497, 6: 0.001041}  # Max 1960; that of 6 bits is for even spacing


def choose_widths(cost: Tensor, total: int) -> Tensor:
    """cost (cols,), none negative -> widths (cols,) int64 whose sum is `total`, which must be reachable."""
    cols = len(cost)
    steps = list(itertools.pairwise(WIDTHS))
    bits = torch.tensor([wide - narrow for narrow, wide in steps]).to(cost.device)
    saved = torch.tensor([(ERROR[narrow] - ERROR[wide]) / (wide - narrow) for narrow, wide in steps]).to(cost)
    order = (cost[:, None] * saved).flatten().argsort(descending=True, stable=True)  # a column's own steps stay in order, also at cost 0
    bits = bits.expand(cols, -1).flatten()[order]
    spare = total - WIDTHS[0] * cols
    taken = bits.cumsum(0) <= spare
    taken = taken.cumprod(0).bool()
    left = spare - int(bits[taken].sum())
    if left:  # the next step has two bits: take the next of one bit
        single = ((bits == 1) & ~taken).nonzero()
        if len(single):
            taken[single[0]] = True
            left -= 1
    widths = torch.full((cols,), WIDTHS[0], device=cost.device).index_add_(0, order // len(steps), torch.where(taken, bits, 0))
    if left:  # all columns have 4 or 6 bits
        fours = (widths == 4).nonzero()[:, 0]
        by_cost = fours[cost[fours].argsort(stable=True)]
        widths[by_cost[0]], widths[by_cost[-1]] = 3, 6
    assert int(widths.sum()) == total, "the sum of widths cannot be reached"
    return widths
