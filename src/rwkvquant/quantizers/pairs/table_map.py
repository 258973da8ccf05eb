"""The linear map from the tables of a tensor of pairs to its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import PairCodebookTensor
from rwkvquant.quantizers.shared.table_map import TableMap


def table_map(q: PairCodebookTensor, like: Tensor) -> TableMap:
    """Tables (row groups, 2**bits, 2), in the type and on the device of `like`."""
    rows, cols = q.shape
    group = torch.arange(rows, device=like.device)[:, None] // q.group_rows
    entry = (group << q.bits) + torch.from_numpy(q.codes).to(like.device).long()  # (rows, pairs)
    index = torch.stack([2 * entry, 2 * entry + 1], -1).view(rows, -1)[:, :cols]
    return TableMap(torch.from_numpy(q.row_scale).to(like)[:, None], index, q.codebooks.shape)
