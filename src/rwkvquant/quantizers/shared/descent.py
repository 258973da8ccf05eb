"""Coordinate descent on codes: with all grids and tables as they are, every weight in turn goes to the value that loses least.

    W  (rows, cols)     E = W - Q     H  (cols, cols)     G = E H     x  what a weight's value is changed by

    loss = tr(E H E^T);    changing Q_rj by x changes it by    H_jj x^2 - 2 G_rj x

and for two neighbouring columns by x H_pair x^T - 2 G_r,pair . x. Error feedback (gptq.py) chooses a column once, when those behind it
are still free; here each is chosen with all others where they ended, and a step is taken only where it gains, so that the loss never rises
(Behdin et al., QuantEase, arXiv:2309.01885, start the same descent from nearest values; from feedback it ends lower). E and G go on
from one pass to the next (residual.py).

Gives up: it ends where no single code can gain, which is not the best set of codes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor, PairCodebookTensor, UniformTensor
from rwkvquant.kernels.dispatch import native_module
from rwkvquant.quantizers.shared.columns import Columns, GridColumns, TableColumns, descend_columns
from rwkvquant.quantizers.shared.residual import BLOCK, Change, Residual

Coded = TypeVar("Coded", UniformTensor, CodebookTensor, PairCodebookTensor)


def descend(W: Tensor, H: Tensor, q: Coded, passes: int = 1, residual: Residual | None = None) -> Coded:
    """W (rows, cols), H (cols, cols) -> q with codes that lose no more in any row, after `passes` over all columns.

    `residual` is that of q, and goes on with it.
    """
    residual = residual or Residual(W, H, q.decode())
    before = residual.losses()
    for _ in range(passes):
        kept = residual.copy()
        codes = _native_pass(q, residual)
        if codes is None:
            codes = one_pass(q, residual)
        after = residual.losses()
        better = residual.gained(before, after)
        residual.restore(~better, kept)
        if not bool(better.any()):
            break
        before = torch.where(better, after, before)
        new = codes.T.contiguous().cpu().numpy()
        q = replace(q, codes=np.where(better.cpu().numpy()[:, None], new, q.codes))
    return q


def one_pass(q: Coded, residual: Residual) -> Tensor:
    """The definition: all columns in turn -> codes (columns or pairs, rows) uint8."""
    codes = torch.from_numpy(q.codes).to(residual.W.device).long().T.contiguous()  # changed in place
    choose, width = _chooser(q, residual.W, residual.H, codes)
    residual.sweep(width, choose)
    return codes.to(torch.uint8)


def _native_pass(q: Coded, residual: Residual) -> Tensor | None:
    """The same by the native module; None where it has no such columns."""
    columns = native_columns(q, residual.W)
    if columns is None or isinstance(q, PairCodebookTensor):
        return None
    width = q.group_size if isinstance(q, UniformTensor) else q.group_cols
    codes = torch.from_numpy(q.codes).T.clone(memory_format=torch.contiguous_format)  # changed in place

    def change(block: slice, G: Tensor) -> Tensor:
        table = [column // width for column in range(block.start, block.stop)]
        found = descend_columns(columns, G, residual.H[block, block], table, codes[block])
        assert found is not None
        return found

    residual.sweep_blocks(BLOCK, change)
    return codes


def native_columns(q: Coded, W: Tensor) -> Columns | None:
    """What descent changes codes among; None for pairs, off the CPU, and without the module."""
    if W.device.type != "cpu" or native_module() is None or isinstance(q, PairCodebookTensor):
        return None
    if isinstance(q, UniformTensor):
        return GridColumns(torch.from_numpy(q.group_scales()), torch.from_numpy(q.group_zeros()), q.bits)
    return TableColumns(torch.from_numpy(q.codebooks).to(W) - CENTROID_ZERO, torch.from_numpy(q.row_scale).to(W), q.group_rows)


def _chooser(q: Coded, W: Tensor, H: Tensor, codes: Tensor) -> tuple[Change, int]:
    """How a column, or a pair of columns, chooses, keeping the codes itself; and how many columns that is."""
    if isinstance(q, UniformTensor):
        return _uniform(q, W, H, codes), 1
    if isinstance(q, CodebookTensor):
        return _codebook(q, W, H, codes), 1
    return _pairs(q, W, H, codes), 2


def _uniform(q: UniformTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
    scales = torch.from_numpy(q.group_scales()).to(W)

    def choose(columns: slice, G: Tensor) -> Tensor:
        j = columns.start
        h, code, scale = H[j, j], codes[j], scales[:, j // q.group_size]
        new = (code + (G[0] / (h * scale)).nan_to_num(0.0, 0.0, 0.0)).round().clamp(0, 2**q.bits - 1)  # h is 0 in a dead column
        x = scale * (new - code)
        gains = h * x.square() < 2 * G[0] * x
        codes[j] = torch.where(gains, new.long(), code)
        return torch.where(gains, x, 0.0)[None]

    return choose


def _codebook(q: CodebookTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
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


def _pairs(q: PairCodebookTensor, W: Tensor, H: Tensor, codes: Tensor) -> Change:
    """With x = s (c - c_old) the cost is, but for what is the same for all c, s^2 times  c h c^T - 2 (c_old h + G / s) . c:
    a quadratic of the table alone, and a product."""
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
