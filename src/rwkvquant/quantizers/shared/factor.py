"""What error feedback needs of H: the triangular factor of the damped inverse, in the order in which columns are rounded.

    H  (in, in)  X^T X / tokens          H + damping mean(diag H)  =  R R^T          U = R^-1,    H^-1 = U^T U

One factor serves all products with the same input, and all grids and codebooks that are tried on them (hessian.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rwkvquant.quantizers.shared.balance import balance
from rwkvquant.quantizers.shared.inverse import inverse_cholesky

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class InverseFactor:
    """What GPTQ needs of H, made once for all the grids tried on a matrix.

    order (in,) the columns in the order of rounding; U (in, in) with (H^-1)[order][:, order] = U^T U; diagonal (in,) of H
    before damping, in the original order; the damping that was used, larger than the damping asked for where H was singular.
    """

    U: Tensor
    order: Tensor
    diagonal: Tensor
    damping: float


def factorize(H: Tensor, *, damping: float, act_order: bool) -> InverseFactor:
    """H (in, in) -> its inverse's factor, after adding `damping` times the mean of the diagonal to the diagonal.

    A dead column (H_qq = 0: its input was always 0) gets the mean instead of 0. It then depends on no other column and is
    rounded to nearest. Where Cholesky fails, the damping is raised tenfold until it succeeds, and a warning is logged.
    """
    assert is_finite(H), "H is not finite"
    diagonal = H.diagonal().clone()
    mean = float(diagonal.mean()) or 1.0
    cols = torch.arange(len(H), device=H.device)
    order = torch.argsort(diagonal, descending=True, stable=True) if act_order else cols
    last_first = order.flip(0)
    H = H[last_first[:, None], last_first]  # last column first, as _inverse_factor takes it
    H[cols, cols] += torch.where(H.diagonal() == 0, mean, 0.0)
    used, raised = damping, 0.0
    while True:
        H[cols, cols] += (used - raised) * mean
        raised = used
        U = _inverse_factor(H)
        if U is not None:
            break
        used = max(10 * used, 1e-4)
    if used > damping:
        log.warning("[gptq] H is singular with damping %g; used %g instead", damping, used)
    return InverseFactor(U, order, diagonal, used)


def factorize_balanced(H: Tensor, W: Tensor, *, damping: float, act_order: bool) -> InverseFactor:
    """`factorize`, but channels that are far out of line in W (out, in) are damped and ordered as if they had the size of the others.

    With D = diag(2^e) of balance.py, D^-1 H D^-1 is what is damped: its U gives (D (D^-1 H D^-1 + damping) D)^-1 = (U D^-1)^T (U D^-1).
    """
    exponents = balance([W.cpu().numpy()])
    if exponents is None:
        return factorize(H, damping=damping, act_order=act_order)
    power = torch.exp2(torch.from_numpy(exponents).to(H))
    factor = factorize(H / power / power[:, None], damping=damping, act_order=act_order)
    return replace(factor, U=factor.U / power[factor.order], diagonal=H.diagonal().clone())


def _inverse_factor(H: Tensor) -> Tensor | None:
    """H, last column first -> U upper triangular with H^-1 = U^T U in the order of rounding, or None where H is not positive definite.

    Cholesky from the last column to the first gives H = R R^T with R upper triangular, and U = R^-1: half the work of
    inverting H and factoring the inverse, and nothing is squared on the way.
    """
    flipped = inverse_cholesky(H)
    if flipped is None:
        return None
    U = flipped.flip(0, 1)
    return U if is_finite(U) else None


def is_finite(values: Tensor) -> bool:
    """Whether all values are finite. The smallest and the largest tell, as both are NaN if any value is; isfinite needs a large array."""
    return all(bool(torch.isfinite(end)) for end in torch.aminmax(values))
