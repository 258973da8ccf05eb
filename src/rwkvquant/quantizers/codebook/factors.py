"""Tables of centroids as whole-number products of coefficients and a shared basis: the arithmetic of compressed codebooks.

    C  (T, K)  the tables of a matrix       n  (T, K)  weight of each centroid: sum of s_r^2 H_jj over the weights it serves
    u  (T, R)  int8 coefficients            b  (R, K)  int8 basis            half = 2^(shift-1), or 0 for shift 0

    centroid_tk = clamp((sum_r u_tr b_rk + half) >> shift, -64, 63)                      what every reader computes

First real U and V of rank R make sum n (C - U V)^2 small, by alternating least squares from the singular vectors. To make them
whole numbers, each pair U_r, V_r is scaled so that both have the same largest entry, and all pairs together by 2^shift. shift is
the largest for which all entries fit into int8. So a rounding error of u costs as much as one of b. Coefficients are then chosen
for the centroids as stored, with rounding and clamp, by steps that are taken only where they gain.

Tables need not ascend. Gives up: all tables of a matrix share one basis, even if they differ much.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.codecs import CodebookFactors
from rwkvquant.kernels import workshop
from rwkvquant.kernels.dispatch import native_module
from rwkvquant.quantizers.shared.clustering import nearest_codes
from rwkvquant.quantizers.shared.limits import LIMITS

LARGEST = 127  # of int8, on both sides
ALTERNATIONS = 3  # of the real factors; with one or thirty the final loss of the method changes by less than 1 %
FIT_ROUNDS = 3  # one loses 0 to 5 %, six gain 0.3 %
LARGEST_SHIFT = 14
NEIGHBOUR_PASSES = 2  # over the coefficients, one up or down


def factor_tables(C: Tensor, weights: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """C (T, K), weights (T, K), none negative -> U (T, R), V (R, K) in float64, with nearly the least sum weights (C - U V)^2.

    The rows of V are orthonormal, the largest first.
    """
    C, n = C.double(), weights.double()
    # 1e-6: a centroid that serves no weight stays where it is.
    n = n / n.mean() + 1e-6 if bool((n > 0).any()) else torch.ones_like(n)
    V = _row_space(n.mean(1, keepdim=True).sqrt() * C, rank)
    for _ in range(ALTERNATIONS):
        U = solve_blocks(torch.einsum("rk,tk,qk->trq", V, n, V), (n * C) @ V.T)
        V = solve_blocks(torch.einsum("tr,tk,tq->krq", U, n, U), (n * C).T @ U).T
    fitted = solve_blocks(torch.einsum("rk,tk,qk->trq", V, n, V), (n * C) @ V.T) @ V
    V = _row_space(fitted, rank)
    return fitted @ V.T, V


def whole_factors(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor, int]:
    """U (T, R), V (R, K) -> coefficients (T, R) and basis (R, K), whole numbers of int8, and their shift: u b / 2^shift is nearly U V."""
    tiny = torch.finfo(U.dtype).tiny
    of_U, of_V = U.abs().amax(0).clamp(min=tiny), V.abs().amax(1).clamp(min=tiny)
    largest = of_U * of_V
    shift = int(torch.floor(torch.log2(LARGEST**2 / largest.amax().clamp(min=2.0**-8))).clamp(0, LARGEST_SHIFT))
    both = (largest * 2.0**shift).sqrt().clamp(max=LARGEST)  # the largest entry of either, in whole numbers
    return whole(U * (both / of_U)), whole(V * (both / of_V)[:, None]), shift


def whole(x: Tensor) -> Tensor:
    return x.round().clamp(-LARGEST, LARGEST)


def centroids_of(u: Tensor, basis: Tensor, shift: int) -> Tensor:
    """CodebookFactors.centroids() - 64, in floating whole numbers: u (..., R), basis (R, K) -> (..., K)."""
    return torch.floor((u @ basis + (1 << shift >> 1)) / (1 << shift)).clamp(*LIMITS)


def step_coefficients(N: Tensor, g: Tensor, u: Tensor, basis: Tensor, shift: int) -> Tensor:
    """Coefficients that lose no more, (T, R), from u (T, R). Moving centroids by d changes the loss by d N d^T - 2 g.d.

    N (T, K, K), g (T, K). Takes the rounded real solution if it is better than u, and then moves each coefficient by one, up or
    down, where that gains. Losses are compared for the centroids as stored.
    """
    B = basis / (1 << shift)
    solved = whole(u + solve_blocks(B @ N @ B.T, g @ B.T))
    return (
        _native_steps(N, g, u, solved, basis, shift)
        if u.device.type == "cpu" and native_module()
        else _steps(N, g, u, solved, basis, shift)
    )


def _native_steps(N: Tensor, g: Tensor, u: Tensor, solved: Tensor, basis: Tensor, shift: int) -> Tensor:
    def array(values: Tensor) -> workshop.Array:
        return values.contiguous().numpy()

    coefficients = workshop.step_coefficients(
        array(N), array(g), array(u), array(solved), array(basis), shift, NEIGHBOUR_PASSES, LIMITS, LARGEST, torch.get_num_threads()
    )
    assert coefficients is not None
    return torch.from_numpy(coefficients)


def _steps(N: Tensor, g: Tensor, u: Tensor, solved: Tensor, basis: Tensor, shift: int) -> Tensor:
    """The definition, starting from the rounded real solution."""
    start = centroids_of(u, basis, shift)

    def change(tried: Tensor) -> Tensor:
        d = centroids_of(tried, basis, shift) - start
        return torch.einsum("tk,tkl,tl->t", d, N, d) - 2 * (g * d).sum(1)

    best, least = u, torch.zeros_like(g[:, 0])

    def take(tried: Tensor) -> None:
        nonlocal best, least
        changed = change(tried)
        better = changed < least
        best, least = torch.where(better[:, None], tried, best), torch.where(better, changed, least)

    take(solved)
    for _ in range(NEIGHBOUR_PASSES):
        for r in range(u.shape[1]):
            one = torch.zeros_like(u[0])
            one[r] = 1
            take(whole(best + one))
            take(whole(best - one))
    return best


def fit_coefficients(x: Tensor, p: Tensor, tables: Tensor, basis: Tensor, shift: int) -> Tensor:
    """Points x and weights p (T, n), uncompressed tables (T, K) -> coefficients (T, R): nearest codes and least squares in turn."""
    codes = nearest_codes(x, tables).long()
    u = torch.zeros(len(x), len(basis), dtype=x.dtype, device=x.device)
    for i in range(FIT_ROUNDS):
        c = centroids_of(u, basis, shift)
        if i:
            codes = nearest_of_any(x, c)
        served = torch.zeros_like(c).scatter_add_(1, codes, p)
        g = torch.zeros_like(c).scatter_add_(1, codes, p * x) - served * c
        u = step_coefficients(torch.diag_embed(served), g, u, basis, shift)
    return u


def nearest_of_any(x: Tensor, centroids: Tensor) -> Tensor:
    """nearest_codes for centroids in any order: x (T, n), centroids (T, K) -> codes (T, n) int64."""
    ascending, names = centroids.sort(dim=1, stable=True)
    return names.gather(1, nearest_codes(x, ascending).long())


def codebook_factors(u: Tensor, basis: Tensor, shift: int) -> CodebookFactors:
    """u (row blocks, column blocks, R), basis (R, K) -> what is stored."""
    return CodebookFactors(u.to(torch.int8).cpu().numpy(), basis.to(torch.int8).cpu().numpy(), shift)


def _row_space(M: Tensor, rank: int) -> Tensor:
    """M (T, K) -> its first `rank` right singular vectors (R, K), signed so that their largest entries are positive."""
    V = torch.linalg.eigh(M.T @ M)[1].flip(1).T[:rank]
    return V * torch.where(V.gather(1, V.abs().argmax(1, keepdim=True)) < 0, -1.0, 1.0)


def solve_blocks(N: Tensor, g: Tensor) -> Tensor:
    """Solve y N = g for each of T systems: N (T, R, R) symmetric, g (T, R). A direction without weight gets 0."""
    diagonal = N.diagonal(dim1=1, dim2=2)
    ridge = torch.where(diagonal > 0, 1e-6 * diagonal.amax(1, keepdim=True), 1.0)
    return torch.linalg.solve(N + torch.diag_embed(ridge), g)
