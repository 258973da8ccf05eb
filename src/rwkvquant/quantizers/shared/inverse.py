"""The inverse of a triangular factor, by halves: what GPTQ needs of H, at the speed of matrix products.

    H = L L^T,  I = L^-1:      L21 = A21 I11^T      A22 - L21 L21^T = L22 L22^T      I21 = -I22 L21 I11

of H = [[A11, A21^T], [A21, A22]]. The halves are halved again down to SMALL, where LAPACK does both steps. Everything else is
products: 4/3 n^3 operations. Cholesky and a triangular solve need as many, but run at a third of the speed of a product.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALL = 1024


def inverse_cholesky(H: Tensor) -> Tensor | None:
    """H (n, n) symmetric -> I (n, n) lower triangular with H^-1 = I^T I, or None where H is not positive definite."""
    n = len(H)
    if n <= SMALL:
        L, failed = torch.linalg.cholesky_ex(H)
        if failed:
            return None
        return torch.linalg.solve_triangular(L, torch.eye(n, dtype=H.dtype, device=H.device), upper=False)
    half = n // 2
    I11 = inverse_cholesky(H[:half, :half])
    if I11 is None:
        return None
    L21 = H[half:, :half] @ I11.T
    I22 = inverse_cholesky(torch.addmm(H[half:, half:], L21, L21.T, alpha=-1))
    if I22 is None:
        return None
    inverse = torch.zeros_like(H)
    inverse[:half, :half], inverse[half:, half:] = I11, I22
    torch.mm(I22, L21 @ I11, out=L21)
    inverse[half:, :half] = L21.neg_()
    return inverse
