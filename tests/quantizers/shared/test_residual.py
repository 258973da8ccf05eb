"""Values that are kept up to date are the same as values computed from the beginning."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rwkvquant.quantizers.shared import residual as module
from rwkvquant.quantizers.shared.loss import row_losses
from rwkvquant.quantizers.shared.residual import Residual
from tests.quantizers.examples import matrix_and_hessian


@pytest.mark.parametrize("far", [150, 256, 1024])
@pytest.mark.parametrize("width", [1, 2, 48, 64, 200])
def test_a_sweep_keeps_error_and_gradient_up_to_date(width: int, far: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every column is changed by a share of its own gradient, which must therefore be current."""
    monkeypatch.setattr(module, "FAR", far)
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 5, 300))
    Q = torch.zeros_like(W)
    residual = Residual(W, H, Q)

    def change(columns: slice, G: Tensor) -> Tensor:
        torch.testing.assert_close(G, ((W - Q) @ H)[:, columns].T, rtol=1e-9, atol=1e-9)
        D = G / (2 * H.diagonal()[columns, None] * width)
        Q[:, columns] += D.T
        return D

    residual.sweep(width, change)
    fresh = Residual(W, H, Q)
    torch.testing.assert_close(residual.E, fresh.E)
    torch.testing.assert_close(residual.G, fresh.G, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(residual.losses(), row_losses(W, Q, H), rtol=1e-9, atol=0)


@pytest.mark.parametrize("far", [48, 150, 1024])
def test_the_last_sweep_keeps_the_columns_to_come_up_to_date(far: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FAR", far)
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 5, 300))
    E = {last: Residual(W, H, 0 * W) for last in (False, True)}
    for last, residual in E.items():

        def change(columns: slice, G: Tensor, residual: Residual = residual) -> Tensor:
            D = G / (2 * H.diagonal()[columns, None] * 48)
            G.addmm_(H[columns, columns], D, alpha=-1)
            return D

        residual.sweep_blocks(48, change, last)
    torch.testing.assert_close(E[True].E, E[False].E, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(E[True].G[-12:], E[False].G[-12:], rtol=1e-9, atol=1e-9)


def test_rows_are_restored_from_a_copy() -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(2, 4, 20))
    residual = Residual(W, H, 0 * W)
    kept, before = residual.copy(), residual.losses()
    residual.reset(2 * W)
    residual.restore(torch.tensor([True, False, True, False]), kept)
    torch.testing.assert_close(residual.E[:, [0, 2]], W[[0, 2]].T)
    torch.testing.assert_close(residual.E[:, [1, 3]], -W[[1, 3]].T)
    assert residual.gained(before, before * 0.9).all() and not residual.gained(before, before).any()
