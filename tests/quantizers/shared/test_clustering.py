"""The exact clustering costs as little as the best of all partitions; Lloyd's iteration costs no less, and converges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.quantizers.shared.clustering import CHUNK_GROUPS, STARTS, clustering_cost, exact_kmeans, lloyd_kmeans, nearest_codes, thinned
from tests.quantizers.codebook.definition import kmeans_by_definition, least_cost_of_all_partitions

LIMITS = (-64, 63)


def points(kind: str, groups: int, n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """x and weights (groups, n) float64, in the range that whole centroids cover and a little beyond."""
    rng = np.random.default_rng(seed)
    x = 25 * rng.standard_normal((groups, n))
    p = rng.lognormal(0, 1, (groups, n))
    if kind == "ties":
        x = np.round(x / 20) * 20
    if kind == "few":  # fewer distinct points than centroids
        x = np.round(x / 50) * 50
    if kind == "equal":
        x[:] = x[:, :1]
    if kind == "zeros":
        p[rng.random((groups, n)) < 0.6] = 0
    if kind == "huge":  # far from 0 compared with their spread, so that a sum of squares loses digits
        x += 1e5
    return torch.from_numpy(x), torch.from_numpy(p)


@pytest.mark.parametrize("n", [1, 2, 3, 7, 9])
@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("limits", [None, LIMITS], ids=["real", "whole"])
@pytest.mark.parametrize("kind", ["plain", "ties", "few", "equal", "zeros", "huge"])
def test_no_partition_costs_less(kind: str, limits: tuple[int, int] | None, k: int, n: int) -> None:
    x, p = points(kind, 5, n)
    c = exact_kmeans(x, p, k, limits)
    assert c.shape == (5, k) and bool(c.isfinite().all()) and bool((c[:, 1:] >= c[:, :-1]).all())
    if limits is not None:
        assert bool((c == c.round()).all()) and c.min() >= -64 and c.max() <= 63
    for cost, of_points, of_weights in zip(clustering_cost(x, p, c), x.numpy(), p.numpy(), strict=True):
        if of_weights.sum() > 0:
            least = least_cost_of_all_partitions(of_points, of_weights, k, limits is not None)
            assert float(cost) == pytest.approx(least, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("limits", [None, LIMITS], ids=["real", "whole"])
def test_groups_of_real_size_are_the_definition(limits: tuple[int, int] | None) -> None:
    x, p = points("plain", 4, 64)
    for c, of_points, of_weights in zip(exact_kmeans(x, p, 8, limits), x.numpy(), p.numpy(), strict=True):
        np.testing.assert_allclose(c.numpy(), kmeans_by_definition(of_points, of_weights, 8, limits is not None), rtol=1e-10)


def test_groups_do_not_depend_on_each_other() -> None:
    x, p = points("plain", CHUNK_GROUPS + 3, 8)
    alone = torch.cat([exact_kmeans(x[i : i + 1], p[i : i + 1], 4) for i in (0, CHUNK_GROUPS - 1, CHUNK_GROUPS, len(x) - 1)])
    assert torch.equal(exact_kmeans(x, p, 4)[[0, CHUNK_GROUPS - 1, CHUNK_GROUPS, len(x) - 1]], alone)


def test_few_distinct_points_are_kept_exactly() -> None:
    x = torch.tensor([[3.0, -7.0, 3.0, 0.0, -7.0, 3.0]])
    for limits in (None, LIMITS):
        c = exact_kmeans(x, torch.ones_like(x), 8, limits)
        torch.testing.assert_close(c.gather(1, nearest_codes(x, c).long()), x)


@pytest.mark.parametrize("find", [exact_kmeans, lloyd_kmeans])
def test_in_a_group_of_weights_0_all_points_count_equally(find: type) -> None:
    x, _ = points("plain", 3, 16)
    assert torch.equal(find(x, torch.zeros_like(x), 4), find(x, torch.ones_like(x), 4))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("kind", ["plain", "ties", "few", "equal", "zeros"])
def test_lloyd_converges_and_is_never_better_than_exact(kind: str, start: str) -> None:
    x, p = points(kind, 50, 64)
    c = lloyd_kmeans(x, p, 8, start)
    codes = nearest_codes(x, c).long()
    for code in range(8):  # a centroid with points is the mean of its points
        served = torch.where(codes == code, p, 0.0)
        some = served.sum(1) > 0
        mean = (served * x).sum(1)[some] / served.sum(1)[some]
        torch.testing.assert_close(c[some, code], mean, rtol=1e-9, atol=1e-9)
    least = clustering_cost(x, p, exact_kmeans(x, p, 8))
    assert bool((least <= clustering_cost(x, p, c) + 1e-9).all())
    if kind == "plain":
        assert float(least.sum()) < 0.95 * float(clustering_cost(x, p, c).sum())


def test_a_tie_goes_to_the_lower_centroid() -> None:
    assert nearest_codes(torch.tensor([[-9.0, 1.0, 1.5, 4.0, 9.0]]), torch.tensor([[0.0, 2.0, 6.0]])).tolist() == [[0, 0, 1, 1, 2]]


@pytest.mark.parametrize("kind", ["normal", "zeros", "ties"])
def test_thinned_points_are_means_of_neighbours(kind: str) -> None:
    x, p = points(kind, 3, 40)
    x, p = x.sort(1).values, p.index_fill(0, torch.tensor(1), 0.0)
    result, weights = thinned(x, p, 10)
    assert result.shape == weights.shape == (3, 10)
    assert bool((result[:, 1:] >= result[:, :-1] - 1e-9).all())
    torch.testing.assert_close(weights.sum(1), p.sum(1))
    torch.testing.assert_close((result * weights).sum(1), (x * p).sum(1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result[1], x[1].view(10, 4).mean(1))  # without weights, plain means


def test_few_points_and_unequal_parts_are_not_thinned() -> None:
    x, p = points("normal", 3, 40)
    assert all(thinned(x, p, most)[0] is x for most in (40, 64, 15, 7))
    assert thinned(x, p, 20)[0].shape == (3, 20)


def test_groups_of_more_points_than_asked_for_are_clustered_as_their_means() -> None:
    x, p = points("normal", 5, 64)
    order = x.argsort(1)
    few = thinned(x.gather(1, order), p.gather(1, order), 16)
    assert torch.equal(exact_kmeans(x, p, 4, most=16), exact_kmeans(*few, 4))
    assert torch.equal(exact_kmeans(x, p, 4, most=64), exact_kmeans(x, p, 4))
