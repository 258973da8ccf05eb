"""Descent on the codes of pairs: a step changes two columns, to any entry of their table. shared/descent.py has the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, PairCodebookTensor
from rwkvquant.quantizers.pairs.columns import PairTables
from rwkvquant.quantizers.shared.descent import BlockStep, CodeSteps
from rwkvquant.quantizers.shared.residual import Change


def chooser(q: PairCodebookTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
    """With x = s (c - c_old), the cost without terms that are the same for all c is s^2 times  c h c^T - 2 (c_old h + G / s) . c:
    a quadratic form of the table, and a product."""
    rows, groups = len(W), len(q.codebooks)
    height = min(q.group_rows, rows)
    tables = torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO  # (row groups, K, 2)
    scale = torch.from_numpy(q.row_scale).to(W)[:, None]
    group = torch.arange(rows, device=W.device) // q.group_rows

    def choose(columns: slice, G: Tensor) -> Tensor:
        width = len(G)
        h, code, of_width = H[columns, columns], codes[columns.start // 2], tables[..., :width]
        old = of_width[group, code]  # (rows, width)
        aim = torch.nn.functional.pad(old @ h + G.T / scale, (0, 0, 0, groups * height - rows)).view(groups, height, width)
        alone = ((of_width @ h) * of_width).sum(-1)[:, None]  # (row groups, 1, K)
        cost = torch.baddbmm(alone, aim, of_width.transpose(1, 2), alpha=-2).flatten(0, 1)[:rows]
        least = cost.min(1)
        gains = least.values < cost.gather(1, code[:, None])[:, 0]
        code.copy_(torch.where(gains, least.indices, code))
        return (scale * (of_width[group, code] - old)).T

    return choose


def blocks(q: PairCodebookTensor, W: Tensor) -> BlockStep:
    """The same in the native module."""
    tables = PairTables(torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO, torch.from_numpy(q.row_scale).to(W), q.group_rows)

    def change(block: slice, G: Tensor, H: Tensor, codes: Tensor) -> Tensor:
        changes = tables.descend(G, H, codes[block.start // 2 : -(-block.stop // 2)])
        assert changes is not None
        return changes

    return change


STEPS = CodeSteps(chooser, 2, blocks)
