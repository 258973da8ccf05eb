"""Blocks of columns in the native module (kernels/workshop.py), for weights on the CPU. Elsewhere None is returned; then the caller runs
the definition: walk.py, update.py.

The native module takes PART columns at a time, so that they stay in the cache of a core: it goes through all of them after each column.
The rest of the block is corrected by a product after each part.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rwkvquant.kernels import workshop
from rwkvquant.kernels.gemv_sections import WIDTHS
from rwkvquant.quantizers.columnwise.state import State

PART = 32  # columns: 256 KiB of floats, where a column has 2048 rows


def feed_back(state: State, columns: Tensor, block: Tensor, U: Tensor | None, fits: int) -> Tensor | None:
    """Sets codes and scales of `columns` (numbers). block (columns, rows), corrected in place; U of these columns -> error / U_cc."""
    if block.device.type != "cpu":
        return None
    errors, codes = torch.empty_like(block), torch.empty(block.shape, dtype=torch.uint8)
    scales, widths, tables = state.col_scale[columns], state.widths[columns].int().numpy(), _tables(state)
    for part in _parts(len(block)):
        done = workshop.round_scaled_columns(
            False,
            block[part].numpy(),
            None if U is None else U[part, part].contiguous().numpy(),
            tables.numpy(),
            widths[part],
            state.row_scale.numpy(),
            scales[part].numpy(),
            codes[part].numpy(),
            errors[part].numpy(),
            fits=fits,
        )
        if not done:
            return None
        if U is not None:
            block[part.stop :].addmm_(U[part, part.stop :].T, errors[part], alpha=-1)
    state.codes[columns], state.col_scale[columns] = codes, scales
    return errors


def descend(state: State, columns: slice, G: Tensor, E: Tensor, H: Tensor, penalty: float) -> Tensor | None:
    """Moves codes and scales of `columns` to less loss. G (columns, rows), kept up to date, E, H of these columns -> changes of Q."""
    if G.device.type != "cpu":
        return None
    changes = torch.empty_like(G)
    scales, codes, widths, tables = state.col_scale[columns], state.codes[columns], state.widths[columns].int().numpy(), _tables(state)
    for part in _parts(len(G)):
        done = workshop.round_scaled_columns(
            True,
            G[part].numpy(),
            H[part, part].contiguous().numpy(),
            tables.numpy(),
            widths[part],
            state.row_scale.numpy(),
            scales[part].numpy(),
            codes[part].numpy(),
            changes[part].numpy(),
            penalty=penalty,
            E=E[part].numpy(),
        )
        if not done:
            return None
        for rest in (slice(0, part.start), slice(part.stop, len(G))):
            G[rest].addmm_(H[rest, part], changes[part], alpha=-1)
    return changes


def _parts(columns: int) -> Iterator[slice]:
    return (slice(first, min(first + PART, columns)) for first in range(0, columns, PART))


def _tables(state: State) -> Tensor:
    """The tables by width, zeros after them: (.., entries)."""
    tables = torch.zeros(WIDTHS[-1] + 1, 1 << WIDTHS[-1], dtype=state.row_scale.dtype)
    for width, table in state.tables.items():
        tables[width, : len(table)] = table
    return tables
