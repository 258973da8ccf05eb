"""The native dynamic programme is the definition in quantizers/shared/clustering.py, in every body that this CPU can run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant import _native
from rwkvquant.kernels import workshop
from rwkvquant.quantizers.shared.clustering import clustering_cost, exact_definition, exact_kmeans

LIMITS = (-64, 63)
SIZES = [(1, 1, 1), (3, 1, 8), (8, 5, 8), (9, 7, 2), (17, 32, 4), (20, 64, 8), (5, 64, 16), (16, 128, 3), (2, 4, 16)]  # groups, n, k


def points(kind: str, groups: int, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Sorted x and p, float64, with no group of weight 0."""
    rng = np.random.default_rng(groups * 1000 + n)
    x, p = rng.normal(size=(groups, n)) * 30, rng.exponential(size=(groups, n))
    if kind == "ties":
        x, p = np.round(x / 10) * 10, np.round(p) + 1
    if kind == "zeros":  # many points of weight 0, with the last ones of every group
        p *= rng.random((groups, n)) < 0.4
        p[:, n - n // 3 :] = 0
        p[:, 0] = 1
    if kind == "equal":
        x[:], p[:] = 7.25, 1
    if kind == "outside":  # the range of centroids
        x *= 10
    if kind == "tiny":
        x, p = x * 1e-12, p * 1e-9
    order = np.argsort(x, axis=1, kind="stable")
    return torch.from_numpy(np.take_along_axis(x, order, 1)), torch.from_numpy(np.take_along_axis(p, order, 1))


KINDS = ["plain", "ties", "zeros", "equal", "outside", "tiny"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("isa")
def test_with_limits_centroids_are_those_of_the_definition(kind: str) -> None:
    for groups, n, k in SIZES:
        x, p = points(kind, groups, n)
        result, expected = native(x, p, k, LIMITS), exact_definition(x, p, k, LIMITS)
        assert bool((result.diff(dim=1) >= 0).all()) and bool((result == result.round()).all())
        if kind in ("ties", "tiny", "equal", "outside"):  # many sets of centroids cost the same
            same_cost(x, p, result, expected)
        else:
            assert torch.equal(result, expected), (groups, n, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("isa")
def test_without_limits_centroids_cost_what_the_definitions_do(kind: str) -> None:
    for groups, n, k in SIZES:
        x, p = points(kind, groups, n)
        result = native(x, p, k, None)
        assert bool(result.isfinite().all()) and bool((result.diff(dim=1) >= 0).all())
        same_cost(x, p, result, exact_definition(x, p, k, None))


def native(x: torch.Tensor, p: torch.Tensor, k: int, limits: tuple[int, int] | None) -> torch.Tensor:
    result = workshop.exact_kmeans(x.numpy(), p.numpy(), k, limits)
    assert result is not None
    return torch.from_numpy(result)


def same_cost(x: torch.Tensor, p: torch.Tensor, result: torch.Tensor, expected: torch.Tensor) -> None:
    energy = float((p * x.square()).sum(1).max())
    torch.testing.assert_close(clustering_cost(x, p, result), clustering_cost(x, p, expected), rtol=1e-9, atol=1e-12 * energy)


def test_bodies_agree_to_the_bit() -> None:
    before = _native.isa()
    for limits in (None, LIMITS):
        x, p = points("plain", 33, 64)
        results = []
        for isa in _native.available_isas():
            _native.set_isa(isa)
            results.append(native(x, p, 8, limits))
        _native.set_isa(before)
        assert all(torch.equal(results[0], other) for other in results)


def test_without_the_module_the_definition_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    x, p = points("plain", 10, 40)
    with_module = exact_kmeans(x, p, 4, LIMITS)
    monkeypatch.setattr(workshop, "native_module", lambda: None)
    assert workshop.exact_kmeans(x.numpy(), p.numpy(), 4, LIMITS) is None
    assert torch.equal(exact_kmeans(x, p, 4, LIMITS), with_module)
