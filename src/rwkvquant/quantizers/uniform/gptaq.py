"""GPTAQ: GPTQ that also makes up for the drift of its input, one column's share at a time (arXiv:2504.02692).

    W  (out, in)   weight         w_q  column q as corrected so far         F   the columns not rounded yet, q among them
    D  (in, in)    (x' - x)^T x / tokens (shared/drift.py)                   U  (in, in)   upper triangular, H^-1 = U^T U

Column q is rounded, and the later columns make up for its rounding error as in GPTQ, and for what column q loses because its input
x_q is not x'_q:

    delta_F = -(w_q - Q_q) / U_qq * U_q,F  +  w_q P_q,F            P = triu(D U^T, above the diagonal) U

Row q of P is D_q,F (H_F)^-1, the least squares answer of the columns after q; the rows of U give all of these inverses. So with
w = (w_0, w_1, ..) and e_q = (w_q - Q_q) / U_qq, and U_+ the part of U above its diagonal,

    w = W - e U_+ + w P        hence        w = W (1 - P)^-1  -  e U_+ (1 - P)^-1,

which is GPTQ of the weights W (1 - P)^-1 with diag(U) + U_+ (1 - P)^-1 in place of U: no loop of its own is needed.

Gives up: grids are static, those of W. The authors' code multiplies P by 0.25, and takes Q_q in place of w_q for columns of later
blocks; here that is `correction` 0.25, and w_q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from rwkvquant.quantizers.shared.factor import InverseFactor


def shares(factor: InverseFactor, D: Tensor) -> Tensor:
    """D (in, in) -> P (in, in), strictly upper triangular, in the order of rounding."""
    ordered = D[factor.order][:, factor.order]
    return (ordered @ factor.U.T).triu(1) @ factor.U


def as_gptq(factor: InverseFactor, D: Tensor) -> tuple[InverseFactor, Callable[[Tensor], Tensor]]:
    """The triangle that GPTQ takes in place of U, and a function from W (out, in) to the weights that it takes in place of W."""
    rest = torch.eye(len(D), dtype=D.dtype, device=D.device) - shares(factor, D)  # 1 - P

    def divided(values: Tensor) -> Tensor:
        return torch.linalg.solve_triangular(rest, values, upper=True, left=False, unitriangular=True)

    def weights(W: Tensor) -> Tensor:
        changed = torch.empty_like(W)
        changed[:, factor.order] = divided(W[:, factor.order])
        return changed

    return replace(factor, U=factor.U.diagonal().diag() + divided(factor.U.triu(1))), weights
