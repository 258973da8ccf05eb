"""The linear map from the tables of a tensor of pairs to its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import PairCodebookTensor
from rwkvquant.quantizers.shared.table_map import TableMap


def table_map(q: PairCodebookTensor, like: Tensor, rows: Tensor | None = None) -> TableMap:
    """Tables (row groups, 2**bits, 2), in the type and on the device of `like`. `rows` (n,) int64: to these rows alone, (n, cols)."""
    rows = torch.arange(len(q.codes), device=like.device) if rows is None else rows
    index = _index(q, rows, torch.from_numpy(q.codes).to(like.device)[rows])
    return TableMap(_scale(q, like)[rows, None], index.flatten(1)[:, : q.cols], q.codebooks.shape)


def column_map(q: PairCodebookTensor, like: Tensor) -> TableMap:
    """The same to the weights column first, (cols, rows)."""
    rows = torch.arange(len(q.codes), device=like.device)
    index = _index(q, rows, torch.from_numpy(q.codes).to(like.device).T.contiguous(), axis=1)
    return TableMap(_scale(q, like), index.flatten(0, 1)[: q.cols], q.codebooks.shape)


def _index(q: PairCodebookTensor, rows: Tensor, codes: Tensor, axis: int = -1) -> Tensor:
    """Places of both numbers of a pair, side by side along `axis`."""
    group = rows // q.group_rows
    entry = (group << q.bits if axis == 1 else group[:, None] << q.bits) + codes
    return torch.stack([2 * entry, 2 * entry + 1], axis)


def _scale(q: PairCodebookTensor, like: Tensor) -> Tensor:
    return torch.from_numpy(q.row_scale).to(like)
