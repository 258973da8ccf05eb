"""The linear map from the tables of a codebook tensor to its weights."""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.shared.table_map import TableMap


def table_map(q: CodebookTensor, like: Tensor) -> TableMap:
    """Tables (row blocks, column blocks, 2**bits), in the type and on the device of `like`."""
    rows, cols = q.shape
    row_block = torch.arange(rows, device=like.device)[:, None] // q.group_rows
    col_block = torch.arange(cols, device=like.device)[None, :] // q.group_cols
    table = row_block * q.codebooks.shape[1] + col_block
    index = (table << q.bits) + torch.from_numpy(q.codes).to(like.device).long()
    return TableMap(torch.from_numpy(q.row_scale).to(like)[:, None], index, q.codebooks.shape)
