"""The methods of tables for rows, as the registry calls them."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from rwkvquant.codecs import RowTablesConfig, RowTablesTensor
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.rowtables.kmeans import kmeans_rows
from rwkvquant.quantizers.rowtables.lnq import lnq
from rwkvquant.quantizers.shared.hessian import Hessian


def quantize_kmeans(W: Tensor, hessian: Hessian | None, codec: RowTablesConfig, options: QuantizerOptions) -> RowTablesTensor:
    return kmeans_rows(W, codec.bits, None if hessian is None else hessian.diagonal)


def quantize_lnq(W: Tensor, hessian: Hessian, codec: RowTablesConfig, options: QuantizerOptions) -> RowTablesTensor:
    """By the Hessian of each group of rows where there are several (GuidedQuant), else by that of the input.

    Not `refined`, it ends after one round.
    """
    rounds = {} if options.refined else {"rounds": 1, "passes": 1}
    groups = [hessian.working] if hessian.of_rows is None else list(hessian.of_rows.to(W))
    parts = [lnq(rows, H, codec.bits, **rounds) for rows, H in zip(W.tensor_split(len(groups)), groups, strict=True) if len(rows)]
    codes, tables, scale = (np.concatenate([getattr(part, name) for part in parts]) for name in ("codes", "tables", "row_scale"))
    return RowTablesTensor(codes, tables, scale)
