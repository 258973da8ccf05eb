"""Qronos: the first column corrects the drift of the input, the others share what is left of it (arXiv:2505.11695).

    W  (out, in)   weight         H  (in, in)   x^T x / tokens, damped       D  (in, in)   (x' - x)^T x / tokens (shared/drift.py)
    U  (in, in)    upper triangular, H^-1 = U^T U                            W* = W + W D H^-1

Each step chooses a code with the later columns as they are, and then moves these to the least squares answer:

    Q_t  =  the grid point nearest to   argmin_v  |x' W^T - sum_(j<t) x_j Q_j - x_t v - sum_(j>t) x_j w_j|^2
    w_(>t)  =  argmin  |x' W^T - sum_(j<=t) x_j Q_j - sum_(j>t) x_j w_j|^2

Before the first step w = W, so that  v = W_0 + (W D)_0 / H_00.  From the second step on, what is missing is orthogonal to the columns
that are left, and v is w_t: this is GPTQ (the paper's theorem). Its state after the first step is that of GPTQ of

    W' = W* + (v - W*_0) U_0,: / U_00        with W'_0 = v

so the whole method is GPTQ of W'.

Gives up: grids are static, those of W. The authors damp H with 1e-6 of its largest eigenvalue, and not in v; here it is `damping`,
everywhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.shared.drift import own_output
from rwkvquant.quantizers.shared.factor import InverseFactor


def first_column_corrected(factor: InverseFactor, W: Tensor, D: Tensor) -> Tensor:
    """W (out, in), D (in, in) -> W' (out, in) in the type of W."""
    U, first = factor.U, factor.order[0]
    one = torch.zeros(len(U), 1, dtype=U.dtype, device=U.device)
    one[0] = 1
    h = torch.linalg.solve_triangular(U.T, one, upper=False).square().sum()  # H_00 = |U^-T e_0|^2
    target = own_output(factor, W, D)
    shift = W[:, first] + (W @ D[:, first]) / h - target[:, first]  # v - W*_0
    target[:, factor.order] += torch.outer(shift, U[0] / U[0, 0])
    return target
