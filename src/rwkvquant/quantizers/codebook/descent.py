"""Descent on the codes of codebooks: a step tries every centroid of a weight's table. shared/descent.py has the mathematics."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.shared.columns import TableColumns, block_step
from rwkvquant.quantizers.shared.descent import CodeSteps
from rwkvquant.quantizers.shared.residual import Change


def columns(q: CodebookTensor, W: Tensor) -> TableColumns:
    return TableColumns(torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO, torch.from_numpy(q.row_scale).to(W), q.group_rows)


def chooser(q: CodebookTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
    centroids = torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO
    scale = torch.from_numpy(q.row_scale).to(W)

    def choose(columns: slice, G: Tensor) -> Tensor:
        j = columns.start
        table = centroids[:, j // q.group_cols].repeat_interleave(q.group_rows, 0)[: len(W)]  # (rows, K)
        x = scale[:, None] * (table - table.gather(1, codes[j, :, None]))
        least = (H[j, j] * x.square() - 2 * G[0, :, None] * x).min(1)
        gains = least.values < 0
        codes[j] = torch.where(gains, least.indices, codes[j])
        return torch.where(gains, x.gather(1, least.indices[:, None])[:, 0], 0.0)[None]

    return choose


STEPS = CodeSteps(chooser, 1, lambda q, W: block_step(columns(q, W), q.group_cols))
