"""Native loops of the workshop against short NumPy definitions, in every body. No torch, so sanitizers and other CPUs can run them."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.kernels import workshop
from tests.kernels.guarded import body

Floats = NDArray[np.float64]
ISAS = _native.available_isas()
ROWS = (1, 7, 63, 64, 130)


def least_cost(x: Floats, p: Floats, k: int) -> float:
    """The least cost of k means of sorted points, by trying every start of the last cluster (Wang and Song 2011)."""
    n = len(x)

    def cost(first: int, end: int) -> float:
        centre = np.average(x[first:end], weights=p[first:end])
        return float((p[first:end] * (x[first:end] - centre) ** 2).sum())

    least = [0.0 if end == 0 else np.inf for end in range(n + 1)]
    for _ in range(k):
        least = [min([least[end], *(least[first] + cost(first, end) for first in range(end))]) for end in range(n + 1)]
    return least[n]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("groups", "n", "k"), [(1, 1, 1), (3, 5, 2), (9, 12, 4), (17, 9, 3)])
def test_centroids_cost_the_least_that_is_possible(groups: int, n: int, k: int, isa: str) -> None:
    rng = np.random.default_rng([groups, n])
    x, p = np.sort(rng.normal(size=(groups, n)), axis=1), rng.exponential(size=(groups, n))
    with body(isa):
        result = workshop.exact_kmeans(x, p, k, None, threads=2)
    assert result is not None
    for of_group, weights, centroids in zip(x, p, result, strict=True):
        cost = float((weights * ((of_group[:, None] - centroids) ** 2).min(axis=1)).sum())
        assert cost == pytest.approx(least_cost(of_group, weights, k), rel=1e-9, abs=1e-12)


def grids(columns: int, rows: int) -> tuple[Floats, Floats, NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
    """A block of weights, an upper triangle, tables of two groups."""
    rng = np.random.default_rng([columns, rows])
    U = np.triu(0.2 * rng.normal(size=(columns, columns))) + 2 * np.eye(columns)
    table = (np.arange(columns) % 2).astype(np.int32)
    scale, zero = rng.uniform(0.2, 0.4, (2, rows)).astype(np.float32), rng.integers(0, 8, (2, rows)).astype(np.float32)
    return rng.normal(size=(columns, rows)), U, table, scale, zero


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", ROWS)
def test_columns_are_rounded_one_after_the_other(rows: int, isa: str) -> None:
    block, U, table, scale, zero = grids(9, rows)
    left, want_codes, want_errors = block.copy(), np.empty((9, rows), np.uint8), np.empty((9, rows))
    for i, group in enumerate(table):
        want_codes[i] = np.clip(np.rint(left[i] / scale[group]) + zero[group], 0, 7)
        want_errors[i] = (left[i] - scale[group] * (want_codes[i] - zero[group])) / U[i, i]
        left[i + 1 :] -= np.outer(U[i, i + 1 :], want_errors[i])
    codes = np.full((9, rows), 255, np.uint8)
    with body(isa):
        errors = workshop.round_columns(False, 3, block, U, table, codes, 2, scale=scale, zero=zero)
    np.testing.assert_array_equal(codes, want_codes)
    np.testing.assert_allclose(errors, want_errors, rtol=0, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", ROWS)
def test_codes_descend_and_the_changes_of_values_are_returned(rows: int, isa: str) -> None:
    W, U, table, scale, zero = grids(8, rows)
    H = U @ U.T
    codes = np.random.default_rng(rows).integers(0, 8, (8, rows), dtype=np.uint8)

    def values(of: NDArray[np.uint8]) -> Floats:
        return scale[table].astype(np.float64) * (of - zero[table])

    before, start = codes.copy(), W - values(codes)
    G = H @ start
    with body(isa):
        changes = workshop.round_columns(True, 3, G, H, table, codes, 2, scale=scale, zero=zero)
    np.testing.assert_allclose(changes, values(codes) - values(before), rtol=0, atol=1e-6)
    end = W - values(codes)
    losses = [(E * (H @ E)).sum(axis=0) for E in (start, end)]
    assert (losses[1] <= losses[0] * (1 + 1e-6)).all() and losses[1].sum() < losses[0].sum()
    np.testing.assert_allclose(G, H @ end, rtol=0, atol=1e-4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("rows", "group_rows"), [(1, 2), (7, 2), (16, 16), (37, 8)])
def test_sums_of_h_are_by_pairs_of_codes(rows: int, group_rows: int, isa: str) -> None:
    rng, K, columns = np.random.default_rng(rows), 4, 32
    codes, scale = rng.integers(0, K, (columns, rows), dtype=np.uint8), rng.uniform(0.5, 2, rows)
    H = rng.normal(size=(columns, columns))
    H = H + H.T
    want = np.zeros((-(-rows // group_rows), K, K))
    for r in range(rows):
        chosen = np.eye(K)[codes[:, r]]  # (columns, K)
        want[r // group_rows] += scale[r] ** 2 * chosen.T @ H @ chosen
    with body(isa):
        result = workshop.code_gram(codes, H, scale, group_rows, K, 2)
    np.testing.assert_allclose(result, want, rtol=0, atol=1e-9)


def pair_problem(columns: int, rows: int) -> tuple[Floats, Floats, Floats, Floats]:
    """A block of weights, U, tables (row groups of 16, 2, 16) and scales."""
    block, U, _, scale, _ = grids(columns, rows)
    tables = np.random.default_rng(rows).integers(-8, 8, (-(-rows // 16), 2, 16)).astype(np.float64)
    return block, U, tables, scale[0].astype(np.float64)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", ROWS)
def test_pairs_of_columns_are_rounded_one_after_the_other(rows: int, isa: str) -> None:
    block, U, tables, scale = pair_problem(8, rows)
    left, want_codes, want = block.copy(), np.empty((4, rows), np.uint8), np.empty((8, rows))
    for i in range(0, 8, 2):
        inverse = np.linalg.inv(U[i : i + 2, i : i + 2])
        for r in range(rows):
            a = (left[i : i + 2, r] - scale[r] * tables[r // 16].T) @ inverse  # (K, 2)
            want_codes[i // 2, r] = np.square(a).sum(1).argmin()
            want[i : i + 2, r] = a[want_codes[i // 2, r]]
        left[i + 2 :] -= U[i : i + 2, i + 2 :].T @ want[i : i + 2]
    codes = np.full((4, rows), 255, np.uint8)
    with body(isa):
        a = workshop.round_pairs(False, -1, 16, block, U, tables, scale, codes, 2)
    np.testing.assert_array_equal(codes, want_codes)
    np.testing.assert_allclose(a, want, rtol=0, atol=1e-9)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("columns", [8, 9])
def test_codes_of_pairs_descend(columns: int, rows: int, isa: str) -> None:
    W, U, tables, scale = pair_problem(columns, rows)
    H, pairs = U @ U.T, -(-columns // 2)
    codes = np.random.default_rng(rows).integers(0, 16, (pairs, rows), dtype=np.uint8)

    def values(of: NDArray[np.uint8]) -> Floats:
        entries = tables[np.arange(rows) // 16, :, of]  # (pairs, rows, 2)
        return scale * entries.transpose(0, 2, 1).reshape(2 * pairs, rows)[:columns]

    before, start = values(codes), W - values(codes)
    G = H @ start
    with body(isa):
        changes = workshop.round_pairs(True, -1, 16, G, H, tables, scale, codes, 2)
    np.testing.assert_allclose(changes, values(codes) - before, rtol=0, atol=1e-9)
    end = W - values(codes)
    losses = [(E * (H @ E)).sum(axis=0) for E in (start, end)]
    assert (losses[1] <= losses[0] * (1 + 1e-9)).all() and losses[1].sum() < losses[0].sum()
    np.testing.assert_allclose(G, H @ end, rtol=0, atol=1e-9)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(("groups", "n", "k"), [(1, 3, 1), (9, 37, 8)])
def test_points_are_added_to_their_nearest_centroid(groups: int, n: int, k: int, isa: str) -> None:
    rng = np.random.default_rng(n)
    x, p, c = rng.normal(size=(groups, n, 2)), rng.exponential(size=(groups, n, 2)), rng.normal(size=(groups, k, 2))
    want = np.zeros((groups, k, 3, 2))
    for group, i in np.ndindex(groups, n):
        away = x[group, i] - c[group]
        nearest = (p[group, i] * away**2).sum(1).argmin()
        want[group, nearest] += p[group, i] * away[nearest] ** np.arange(3)[:, None]
    with body(isa):
        result = workshop.sum_clusters(x, p, c, 2)
    np.testing.assert_allclose(result, want, rtol=0, atol=1e-9)
