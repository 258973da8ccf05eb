"""After the walk: row scales, column scales and codes in turn to less loss.

    E = W - Q     G = E H     loss = tr(E H E^T) + lambda |E|^2      lambda = damping * mean(diag H)

    row r:      Q_r (1 + x) changes it by   x^2 (Q_r H Q_r^T + lambda |Q_r|^2) - 2 x (G_r + lambda E_r) . Q_r
    column c:   with y = s t, d_c + x by    x^2 (H_cc + lambda) |y|^2 - 2 x (G_c + lambda E_c) . y
    a code:     as in shared/descent.py, with H_cc + lambda and G + lambda E

The damping is needed: a column that is nearly always 0 in the calibration text has a scale that costs nothing there, and without damping it
went anywhere (a held-out loss seven times as large after one more round on one of our matrices). Each step is taken only where it gains.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.kernels.dispatch import native_module
from rwkvquant.quantizers.columnwise.columns import descend
from rwkvquant.quantizers.columnwise.state import State, as_half
from rwkvquant.quantizers.shared.residual import BLOCK, Residual

ROUNDS = 2
PASSES = 2  # over columns in a round


def update(W: Tensor, H: Tensor, state: State, damping: float, rounds: int = ROUNDS) -> None:
    """W (rows, cols), H (cols, cols). Changes scales and codes of `state`; tables and widths stay."""
    if not rounds:
        return
    penalty = damping * float(H.diagonal().mean())
    residual = Residual(W, H, state.decode().T)
    WH = residual.H @ residual.W.T  # (cols, rows), as H is symmetric
    for turn in range(rounds):
        _update_rows(residual, WH, state, penalty)
        for number in range(PASSES):
            _update_columns(residual, state, penalty, last=(turn, number) == (rounds - 1, PASSES - 1))


def _update_rows(residual: Residual, WH: Tensor, state: State, penalty: float) -> None:
    Q = state.decode()
    QH = WH - residual.G
    slope = (Q * residual.G).sum(0) + penalty * (Q * residual.E).sum(0)
    curve = (Q * QH).sum(0) + penalty * Q.square().sum(0)
    step = (slope / curve).nan_to_num(0.0, 0.0, 0.0).clamp(min=-0.5)
    new = as_half(state.row_scale * (1 + step))
    step = new / state.row_scale - 1
    step = torch.where(step * (2 * slope - step * curve) > 0, step, 0.0)
    state.row_scale = torch.where(step != 0, new, state.row_scale)
    residual.E -= Q.mul_(step)
    residual.G -= QH.mul_(step)


def _update_columns(residual: Residual, state: State, penalty: float, last: bool) -> None:
    if not _native_pass(residual, state, penalty, last):
        one_pass(residual, state, penalty)


def _native_pass(residual: Residual, state: State, penalty: float, last: bool = False) -> bool:
    """The same in the native module; False off the CPU and without the module. last: nobody needs G any more."""
    if residual.W.device.type != "cpu" or native_module() is None:
        return False

    def change(columns: slice, G: Tensor) -> Tensor:
        changes = descend(state, columns, G, residual.E[columns], residual.H[columns, columns], penalty)
        assert changes is not None
        return changes

    residual.sweep_blocks(BLOCK, change, last)
    return True


def one_pass(residual: Residual, state: State, penalty: float) -> None:
    """The definition: all columns in turn."""
    s = state.row_scale
    middles = {width: (table[1:] + table[:-1]) / 2 for width, table in state.tables.items()}
    widths, curves = state.widths.tolist(), (residual.H.diagonal() + penalty).tolist()

    def change(columns: slice, G: Tensor) -> Tensor:
        c = columns.start
        h, table = curves[c], state.tables[widths[c]]
        if h <= 0:
            return torch.zeros_like(G)
        old, scale = table[state.codes[c].long()], state.col_scale[c]
        y, g = s * old, G[0] + penalty * residual.E[c]
        slope, curve = y.dot(g), h * y.dot(y)
        new = as_half(scale + (slope / curve).nan_to_num(0.0, 0.0, 0.0))
        new = torch.where((new - scale) * (2 * slope - (new - scale) * curve) > 0, new, scale)
        D = (new - scale) * y
        g = g - h * D
        size = s * new
        codes = torch.searchsorted(middles[widths[c]], old + g / (h * size))
        x = size * (table[codes] - old)
        gains = h * x.square() < 2 * g * x
        state.codes[c] = torch.where(gains, codes.to(torch.uint8), state.codes[c])
        state.col_scale[c] = new
        return (D + torch.where(gains, x, 0.0))[None]

    residual.sweep(1, change)
