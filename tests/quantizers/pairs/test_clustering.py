"""Two-dimensional k-means: Lloyd's iteration is its definition, and splitting is nearly as good as the best of many random starts."""

from __future__ import annotations

import numpy as np
import torch

from rwkvquant.quantizers.pairs.clustering import _round, nearest_pairs, pair_kmeans


def cost(x: torch.Tensor, p: torch.Tensor, centroids: torch.Tensor) -> float:
    codes = nearest_pairs(x, p, centroids)
    return float((p * (x - centroids.gather(1, codes[..., None].expand(-1, -1, 2))).square()).sum())


def points(seed: int, groups: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.standard_normal((groups, n, 2))), torch.from_numpy(rng.lognormal(0, 1, (groups, n, 2)))


def test_the_nearest_is_the_definition() -> None:
    x, p = points(0, 3, 50)
    centroids = points(1, 3, 16)[0]
    result = nearest_pairs(x, p, centroids)
    for group, i in np.ndindex(3, 50):
        costs = (p[group, i] * (x[group, i] - centroids[group]).square()).sum(1)
        assert int(result[group, i]) == int(costs.argmin())


def test_a_round_puts_centroids_on_weighted_means() -> None:
    x, p = points(2, 2, 400)
    centroids = x[:, :8]
    codes, moved = nearest_pairs(x, p, centroids), _round(x, p, centroids)
    for group, k, i in np.ndindex(2, 8, 2):
        mine = codes[group] == k
        mean = (p[group, mine, i] * x[group, mine, i]).sum() / p[group, mine, i].sum()
        np.testing.assert_allclose(float(moved[group, k, i]), float(mean), rtol=1e-9)


def test_empty_clusters_are_put_to_use() -> None:
    """In each round as many of them as there are clusters in use: 2, 4 and 8 are in use after one, two and three rounds."""
    x, p = points(3, 1, 300)
    centroids = torch.cat([x[:, :2], torch.full((1, 6, 2), 1e6, dtype=x.dtype)], 1)
    for _ in range(4):
        centroids = _round(x, p, centroids)
    assert len(nearest_pairs(x, p, centroids).unique()) == 8


def test_as_many_points_as_centroids_cost_nothing() -> None:
    x = torch.from_numpy(np.random.default_rng(4).integers(-64, 64, (5, 16, 2)).astype(float)).repeat(1, 6, 1)
    assert cost(x, torch.ones_like(x), pair_kmeans(x, torch.ones_like(x), 16)) < 1e-9


def test_splitting_ends_near_the_best_of_random_starts() -> None:
    x, _ = points(5, 1, 4000)
    p = torch.ones_like(x)
    best = np.inf
    for seed in range(6):
        centroids = x[:, np.random.default_rng(seed).permutation(4000)[:32]]
        for _ in range(60):
            centroids = _round(x, p, centroids)
        best = min(best, cost(x, p, centroids))
    assert cost(x, p, pair_kmeans(x, p, 32)) < 1.04 * best


def test_points_without_weight_change_nothing() -> None:
    x, p = points(6, 2, 100)
    far = torch.full((2, 20, 2), 1000.0, dtype=x.dtype)
    padded = pair_kmeans(torch.cat([x, far], 1), torch.cat([p, 0 * far], 1), 8)
    np.testing.assert_allclose(padded.numpy(), pair_kmeans(x, p, 8).numpy(), rtol=1e-9)
