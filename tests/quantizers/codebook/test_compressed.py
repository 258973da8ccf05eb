"""Compressed codebooks: the walk is the definition with these tables, no stage loses, and compression loses little."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.codebook import compressed_update
from rwkvquant.quantizers.codebook import walk as codebook_walk
from rwkvquant.quantizers.codebook.compressed import compress_with, find_basis, kmeans_compressed
from rwkvquant.quantizers.codebook.compressed_update import move_basis, update_coefficients, update_factors, with_factors
from rwkvquant.quantizers.codebook.factors import fit_coefficients
from rwkvquant.quantizers.codebook.gptvq import gptvq, gptvq_with
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.table_map import table_map
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from rwkvquant.quantizers.shared.table_map import least_squares
from tests.quantizers.codebook.definition import code_by_definition
from tests.quantizers.examples import matrix_and_hessian

SHAPES = [(6, 40, 2), (5, 70, 4)]


def problem(seed: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


def consistent(q: CodebookTensor) -> bool:
    assert q.factors is not None
    return np.array_equal(q.codebooks, q.factors.centroids()) and q.factors.coefficients.shape[:2] == q.codebooks.shape[:2]


def walk_by_definition(W: torch.Tensor, H: torch.Tensor, plain: CodebookTensor, rank: int, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes and centroids, one column at a time, the inverse recomputed; coefficients are fitted to the corrected weights."""
    rows, cols = W.shape
    basis, shift = find_basis(W, plain, H.diagonal().expand(W.shape), rank)
    s, weight = torch.from_numpy(plain.row_scale).double(), H.diagonal()
    H = H + damping * H.diagonal().mean() * torch.eye(cols)
    W = W.clone()
    codes, centroids = np.zeros((rows, cols), np.uint8), np.zeros(plain.codebooks.shape)
    for q in range(cols):
        if q % 32 == 0:
            b = slice(q, q + 32)
            for block, top in enumerate(range(0, rows, plain.group_rows)):
                scale = s[top : top + plain.group_rows, None]
                x = (W[top : top + plain.group_rows, b] / scale).flatten()[None]
                p = (weight[b] * scale**2).flatten()[None]
                start = torch.from_numpy(plain.codebooks[block, q // 32][None]).double() - 64
                u = fit_coefficients(x, p, start, basis, shift)
                half = 1 << shift >> 1
                centroids[block, q // 32] = np.clip((u[0].int().numpy() @ basis.int().numpy() + half) >> shift, -64, 63)
        Hinv = torch.linalg.inv(H[q:, q:])
        for r in range(rows):
            table = centroids[r // plain.group_rows, q // 32]
            codes[r, q] = code_by_definition(float(W[r, q] / s[r]), table)
            W[r, q:] -= (W[r, q] - s[r] * table[codes[r, q]]) / Hinv[0, 0] * Hinv[0]
    return codes, centroids


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize(("rows", "cols", "group_rows"), SHAPES, ids=str)
def test_the_walk_is_the_definition(rows: int, cols: int, group_rows: int, rank: int) -> None:
    W, H = problem(1, rows, cols)
    factor = factorize(H, damping=0.02, act_order=False)
    plain = gptvq_with(factor, W, H, group_rows=group_rows, rounds=0)
    codes, centroids = walk_by_definition(W, H, plain, rank, 0.02)
    result = compress_with(factor, W, plain, rank)
    np.testing.assert_array_equal(result.codebooks, centroids + 64)
    expected = CodebookTensor(codes, 3, (centroids + 64).astype(np.uint8), plain.row_scale, group_rows)
    np.testing.assert_array_equal(result.decode(), expected.decode())
    assert consistent(result)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize(("bits", "group_rows", "rank"), [(3, 2, 4), (3, 4, 2), (2, 2, 2), (4, 4, 8), (3, 16, 8)])
def test_every_shape_is_consistent_and_rounds_never_lose(bits: int, group_rows: int, rank: int, act_order: bool) -> None:
    W, H = problem(2, 19, 70)
    losses = []
    for rounds in (0, 1, 2):
        q = gptvq(W, H, bits=bits, group_rows=group_rows, rank=rank, act_order=act_order, rounds=rounds)
        assert consistent(q) and q.bits == bits and q.shape == (19, 70)
        losses.append(hessian_error(W, q.decode(), H))
    assert losses[2] < losses[1] < losses[0]


@pytest.mark.parametrize("seed", range(3))
def test_new_coefficients_lose_in_no_row_block(seed: int) -> None:
    W, H = problem(seed, 9, 70)
    q = gptvq(W, H, rank=3, rounds=0)
    moved = update_coefficients(W, H, q)
    before, after = (torch.nn.functional.pad(row_losses(W, part.decode(), H), (0, 1)).view(-1, 2).sum(1) for part in (q, moved))
    assert bool((after <= before * (1 + 1e-9)).all()) and float(after.sum()) < 0.99 * float(before.sum())
    assert consistent(moved) and np.array_equal(moved.codes, q.codes)


def test_the_basis_goes_to_the_least_squares_solution() -> None:
    """A basis that was moved away goes to the least-squares solution for all its numbers, except for rounding."""
    W, H = problem(3, 40, 64)
    q = gptvq(W, H, rank=2, rounds=0)
    assert q.factors is not None
    unit, u = 2.0**-q.factors.shift, torch.from_numpy(q.factors.coefficients).double()
    tables = table_map(q, W)

    def spread(basis: torch.Tensor) -> torch.Tensor:
        return tables.spread(unit * (u @ basis))

    basis = torch.from_numpy(q.factors.basis).double()
    E = W - torch.from_numpy(q.decode()).double()
    A = torch.stack([spread(one.view(2, 8)) for one in torch.eye(16, dtype=W.dtype)], -1)
    L = torch.linalg.cholesky(H)
    step = np.linalg.lstsq((L.T @ A).flatten(0, 1).numpy(), (E @ L).flatten().numpy(), rcond=None)[0].reshape(2, 8)
    result = move_basis(W, H, q)
    assert result.factors is not None and consistent(result) and np.abs(step).max() > 1
    np.testing.assert_allclose(result.factors.basis, (basis.numpy() + step).clip(-127, 127), atol=1.0)  # four steps, and rounding


@pytest.mark.parametrize("seed", range(3))
def test_the_m_step_never_loses(seed: int) -> None:
    W, H = problem(seed, 12, 40)
    q = gptvq(W, H, rank=2, group_rows=4, rounds=1)
    for _ in range(3):
        moved = update_factors(W, H, q)
        assert consistent(moved)
        assert float(row_losses(W, moved.decode(), H).sum()) <= float(row_losses(W, q.decode(), H).sum())
        q = moved


def test_little_is_lost_by_half_the_rank() -> None:
    W, H = matrix_and_hessian(4, 64, 128, tokens=2000)
    loss = {rank: hessian_error(W, gptvq(W, H, group_rows=4, rank=rank).decode(), H) for rank in (0, 2, 4, 8)}
    assert loss[8] < 1.05 * loss[0] and loss[4] < 1.2 * loss[0] and loss[4] < loss[2]
    assert loss[4] < hessian_error(W, gptvq(W, H, group_rows=8).decode(), H)  # which needs as many bytes


def test_without_feedback_codes_are_the_nearest() -> None:
    W, H = problem(5, 9, 70)
    importance = H.diagonal()
    q = kmeans_compressed(W, 3, 4, 32, importance, rank=3)
    assert consistent(q)
    for r, j in np.ndindex(9, 70):
        table = (q.codebooks[r // 4, j // 32].astype(float) - 64) * float(q.row_scale[r])
        assert abs(table[q.codes[r, j]] - float(W[r, j])) <= np.abs(table - float(W[r, j])).min() * (1 + 1e-9)
    losses = [
        float((importance * (W - torch.from_numpy(part.decode())).square()).sum())
        for part in (kmeans_codebooks(W, 3, 4, 32, importance), q, kmeans_compressed(W, 3, 4, 32, importance, rank=1))
    ]
    assert losses[0] < losses[1] < losses[2] < 3 * losses[0]


def test_zeros_dead_columns_and_singular_hessians_give_finite_weights() -> None:
    W, H = matrix_and_hessian(6, 6, 64, tokens=10)
    H[3], H[:, 3] = 0, 0
    for matrix in (W, 0 * W):
        q = gptvq(matrix, H, rank=4, damping=0.0)
        assert consistent(q) and np.isfinite(q.decode()).all()
    assert not q.decode().any()


def test_least_squares_is_right_without_a_preconditioner() -> None:
    W, H = problem(7, 4, 16)
    q = kmeans_codebooks(W, 2, 2, 16)
    tables = table_map(q, W)
    stored = torch.from_numpy(q.codebooks.astype(float)) - 64
    E = W - tables.spread(stored)
    plain = least_squares(tables.gather(E @ H), H, tables.spread, tables.gather, lambda g: g, 1, 60)
    weights = tables.weights(H.diagonal()).clamp(min=1e-9)
    scaled = least_squares(tables.gather(E @ H), H, tables.spread, tables.gather, lambda g: g / weights, 1, 60)
    losses = [float((((E - tables.spread(t)) @ H) * (E - tables.spread(t))).sum()) for t in (plain, scaled)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


@pytest.mark.parametrize("rank", [0, 2])
def test_fitting_a_few_tables_at_a_time_gives_the_same_tables(rank: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns out of order: all tables are fitted to the original weights, here two column blocks at a time, the last of 6 columns."""
    W, H = problem(8, 7, 70)
    whole = gptvq(W, H, rank=rank, rounds=0)
    monkeypatch.setattr(codebook_walk, "FITTED", 2 * 7 * 32)
    parts = gptvq(W, H, rank=rank, rounds=0)
    np.testing.assert_array_equal(parts.codes, whole.codes)
    np.testing.assert_array_equal(parts.codebooks, whole.codebooks)


def test_the_basis_moves_nearly_as_far_by_the_curvature_of_some_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven row blocks of 13, the last of three rows: the gradient is exact, so a basis that was moved away returns nearly as far."""
    W, H = problem(9, 51, 64)
    q = gptvq(W, H, rank=2, group_rows=4, rounds=0)
    assert q.factors is not None
    u, basis = (torch.from_numpy(part).double() for part in (q.factors.coefficients, q.factors.basis))
    away = torch.from_numpy(np.random.default_rng(0).integers(-30, 31, basis.shape))
    q = with_factors(q, u, (basis + away).clamp(-127, 127), q.factors.shift)

    def loss(of: CodebookTensor) -> float:
        return float(row_losses(W, of.decode(), H).sum())

    whole = loss(move_basis(W, H, q))
    monkeypatch.setattr(compressed_update, "SAMPLED", 7 * 4 * 64)
    blocks = compressed_update._sampled_blocks(q)
    assert len(blocks) == 7 and blocks[0] == 0 and blocks[-1] == 12
    some = loss(move_basis(W, H, q))
    assert whole < loss(q) / 2 and loss(q) - some > 0.95 * (loss(q) - whole)
    assert loss(update_factors(W, H, q)) <= loss(q)
