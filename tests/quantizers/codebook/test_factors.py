"""Compressed tables: the arithmetic is that of the format, real factors have the least loss, and no step of whole ones loses."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import CENTROID_ZERO
from rwkvquant.quantizers.codebook.factors import (
    centroids_of,
    codebook_factors,
    factor_tables,
    fit_coefficients,
    nearest_of_any,
    step_coefficients,
    whole_factors,
)


def tables(seed: int, count: int, k: int = 8) -> torch.Tensor:
    rng = np.random.default_rng(seed)
    spread = np.sort(rng.standard_normal((count, k)) * 12 + np.linspace(-40, 40, k), 1)
    return torch.from_numpy(spread.clip(-64, 63))


def random_factors(seed: int, count: int, rank: int, k: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(-127, 128, (count, rank)).astype(float)), torch.from_numpy(
        rng.integers(-127, 128, (rank, k)).astype(float)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shift", [0, 1, 7, 8, 14])
def test_centroids_are_those_of_the_format(shift: int, dtype: torch.dtype) -> None:
    u, basis = random_factors(0, 60, 8, 16)
    stored = codebook_factors(u.view(6, 10, 8), basis, shift).centroids()
    result = centroids_of(u.to(dtype), basis.to(dtype), shift)
    np.testing.assert_array_equal(result.view(6, 10, 16).numpy() + CENTROID_ZERO, stored)


@pytest.mark.parametrize("rank", [1, 2, 4, 8])
def test_equal_weights_give_the_singular_vectors(rank: int) -> None:
    C = tables(1, 50)
    U, V = factor_tables(C, torch.full_like(C, 0.3), rank)
    left, size, right = np.linalg.svd(C.numpy(), full_matrices=False)
    np.testing.assert_allclose((U @ V).numpy(), (left[:, :rank] * size[:rank]) @ right[:rank], atol=1e-3)
    np.testing.assert_allclose((V @ V.T).numpy(), np.eye(rank), atol=1e-9)


def test_tables_of_this_rank_are_exact_for_any_weights() -> None:
    rng = np.random.default_rng(2)
    C = torch.from_numpy(rng.standard_normal((40, 3)) @ rng.standard_normal((3, 8)))
    weights = torch.from_numpy(rng.lognormal(0, 2, (40, 8)))
    weights[rng.random((40, 8)) < 0.2] = 0
    U, V = factor_tables(C, weights, 3)
    assert float((weights * (C - U @ V).square()).sum()) < 1e-6 * float((weights * C.square()).sum())


def test_weights_count() -> None:
    C, weights = tables(3, 60), torch.from_numpy(np.random.default_rng(3).lognormal(0, 2, (60, 8)))
    (U, V), (U_plain, V_plain) = factor_tables(C, weights, 3), factor_tables(C, torch.ones_like(C), 3)
    assert float((weights * (C - U @ V).square()).sum()) < 0.8 * float((weights * (C - U_plain @ V_plain).square()).sum())


@pytest.mark.parametrize("size", [1e-9, 0.01, 1.0, 500.0])
def test_whole_factors_fit_and_keep_the_product(size: float) -> None:
    U, V = factor_tables(tables(4, 60), torch.ones(60, 8), 4)
    u, basis, shift = whole_factors(size * U, V)
    assert 0 <= shift <= 14 and float(u.abs().max()) <= 127 and float(basis.abs().max()) <= 127
    assert torch.equal(u, u.round()) and torch.equal(basis, basis.round())
    if 0.01 <= size <= 1:
        half_a_step_of_either = 0.5 * (u.abs() @ torch.ones_like(basis) + torch.ones_like(u) @ basis.abs()) + 0.25 * 4
        bound = half_a_step_of_either / 2**shift
        assert bool(((u @ basis / 2**shift - size * U @ V).abs() <= bound).all())
        assert max(float(u.abs().max()), float(basis.abs().max())) > 63  # one more bit would not fit


def test_a_step_never_loses_and_is_better_than_rounding() -> None:
    rng = np.random.default_rng(5)
    u, basis = random_factors(5, 80, 4)
    u, shift = (u / 4).round(), 8
    A = torch.from_numpy(rng.standard_normal((80, 30, 8)))
    N, g = A.transpose(1, 2) @ A, torch.from_numpy(rng.standard_normal((80, 8)) * 60)
    start = centroids_of(u, basis, shift)

    def change(tried: torch.Tensor) -> torch.Tensor:
        d = centroids_of(tried, basis, shift) - start
        return torch.einsum("tk,tkl,tl->t", d, N, d) - 2 * (g * d).sum(1)

    stepped = step_coefficients(N, g, u, basis, shift)
    B = basis / 2**shift
    rounded = (u + torch.linalg.solve(B @ N @ B.T, g @ B.T)).round().clamp(-127, 127)
    assert bool((change(stepped) <= 0).all()) and float(change(stepped).sum()) < float(change(rounded).sum())
    assert bool((change(stepped) <= change(rounded)).all())


def test_fitting_recovers_points_of_a_table() -> None:
    """From tables near the points, fitting finds the points' own coefficients, or others with the same centroids."""
    basis = torch.tensor([[-120.0, -80, -50, -17, 17, 50, 80, 120], [90, 30, -10, -30, -30, -10, 30, 90]], dtype=torch.float64)
    u = torch.from_numpy(np.random.default_rng(6).integers([60, -30], [110, 30], (40, 2)).astype(float))
    centroids = centroids_of(u, basis, 8)
    x = centroids.repeat(1, 6)
    near = (centroids + torch.from_numpy(np.random.default_rng(7).integers(-2, 3, centroids.shape).astype(float))).sort(1).values
    result = centroids_of(fit_coefficients(x, torch.ones_like(x), near, basis, 8), basis, 8)
    np.testing.assert_array_equal(result.numpy(), centroids.numpy())


def test_the_nearest_of_tables_in_any_order() -> None:
    centroids = tables(8, 20)[:, torch.from_numpy(np.random.default_rng(8).permutation(8))]
    x = torch.from_numpy(np.random.default_rng(9).standard_normal((20, 30)) * 40)
    codes = nearest_of_any(x, centroids)
    expected = (x[:, :, None] - centroids[:, None]).abs().amin(2)
    np.testing.assert_allclose((x - centroids.gather(1, codes)).abs().numpy(), expected.numpy())
