"""The native loops over pairs, of columns and of points, are the definitions, in every body, for any number of rows and of threads."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import _native
from rwkvquant.kernels import workshop
from rwkvquant.quantizers.pairs import clustering
from rwkvquant.quantizers.pairs.columns import PairTables
from rwkvquant.quantizers.pairs.gptvq import gptvq_pairs
from rwkvquant.quantizers.pairs.walk import round_block
from rwkvquant.quantizers.shared import descent
from tests.quantizers.examples import matrix_and_hessian
from tests.quantizers.shared.test_columns import DTYPES, ROWS, agree, block_and_factor, on_threads


def tables(rows: int, bits: int, group_rows: int, dtype: torch.dtype) -> PairTables:
    draws = torch.Generator().manual_seed(bits)
    entries = torch.randint(-64, 64, (-(-rows // group_rows), 2**bits, 2), generator=draws).to(dtype)
    return PairTables(entries, torch.rand(rows, 1, generator=draws).to(dtype) / 30 + 0.01, group_rows)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("bits", "group_rows", "alone"), [(4, 16, -1), (6, 64, 3), (8, 48, 9), (5, 3, 0), (7, 256, -1)])
@pytest.mark.usefixtures("isa")
def test_feedback_is_the_definition(bits: int, group_rows: int, alone: int, rows: int, dtype: torch.dtype) -> None:
    block, U = block_and_factor(rows, dtype)
    given = tables(rows, bits, group_rows, dtype)
    agree(given.feed_back(block, U, alone), round_block(block, U, given, alone), dtype)


def test_of_equal_entries_the_first_is_taken_and_in_descent_the_old_one_stays() -> None:
    twice = PairTables(torch.tensor([[[3.0, 4.0], [-2.0, 1.0]] * 8]), torch.ones(70), 70)
    block = torch.tensor([[3.0], [4.0]]).repeat(1, 70)
    result = twice.feed_back(block, torch.eye(2), -1)
    assert result is not None and not result[0].any() and not result[1].any()
    codes = torch.full((1, 70), 6, dtype=torch.uint8)
    changes = twice.descend(torch.zeros(2, 70), torch.eye(2), codes)
    assert changes is not None and not changes.any() and bool((codes == 6).all())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("groups", "n", "k"), [(1, 1, 1), (3, 50, 4), (9, 1000, 64), (2, 4000, 256)])
@pytest.mark.usefixtures("isa")
def test_sums_of_clusters_are_the_definition(groups: int, n: int, k: int, dtype: torch.dtype) -> None:
    draws = torch.Generator().manual_seed(n)
    x, c = (torch.randn(groups, count, 2, generator=draws, dtype=dtype) for count in (n, k))
    p = torch.rand(groups, n, 2, generator=draws, dtype=dtype)
    p[:, n // 2 :: 7] = 0
    result, expected = clustering._native_sums(x, p, c), clustering._sums_by_cluster(x, p, c)
    assert result is not None
    exact = dtype == torch.float64  # in float32 the rounding of a sum may decide which centroid is nearest
    torch.testing.assert_close(result, expected, rtol=1e-9 if exact else 1e-3, atol=1e-12 if exact else 2e-2)


def test_threads_and_bodies_change_no_bit() -> None:
    W, H = (torch.from_numpy(part).float() for part in matrix_and_hessian(6, 600, 64))
    before, results = _native.isa(), []
    block, U = block_and_factor(600, torch.float32)
    given = tables(600, 6, 16, torch.float32)
    for name in _native.available_isas():
        _native.set_isa(name)
        for threads in (1, 2, 5):
            results.append(on_threads(threads, lambda: given.feed_back(block, U, -1)))
    _native.set_isa(before)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))
    quantized = [on_threads(threads, lambda: gptvq_pairs(W, H, bits=4, rounds=2).decode()) for threads in (1, 3)]
    np.testing.assert_array_equal(*quantized)


@pytest.mark.parametrize(
    "change",
    [{"block": (3, 5)}, {"matrix": (2, 3)}, {"tables": (2, 2, 8)}, {"tables": (1, 3, 8)}, {"tables": (1, 2, 257)}, {"row_scale": (4,)}],
    ids=str,
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    shapes: dict[str, Any] = {"block": (2, 5), "matrix": (2, 2), "tables": (1, 2, 8), "row_scale": (5,)}
    given = {name: np.zeros(shape, np.float32) for name, shape in (shapes | change).items()}
    with pytest.raises(ValueError, match=r"\[round_pairs\]"):
        workshop.round_pairs(False, -1, 16, codes=np.zeros((1, 5), np.uint8), threads=1, **given)


def test_sums_of_clusters_are_the_same_bits_in_all_bodies() -> None:
    before, draws = _native.isa(), torch.Generator().manual_seed(0)
    x, p, c = (torch.rand(9, count, 2, generator=draws) for count in (700, 700, 32))
    results = []
    for name in _native.available_isas():
        _native.set_isa(name)
        results += [on_threads(threads, lambda: clustering._native_sums(x, p, c)) for threads in (1, 2)]
    _native.set_isa(before)
    assert all(torch.equal(results[0], other) for other in results[1:])


@pytest.mark.parametrize("change", [{"x": (2, 5, 3)}, {"p": (2, 4, 2)}, {"centroids": (1, 4, 2)}, {"centroids": (2, 257, 2)}], ids=str)
def test_points_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    shapes: dict[str, Any] = {"x": (2, 5, 2), "p": (2, 5, 2), "centroids": (2, 4, 2)}
    with pytest.raises(ValueError, match=r"\[sum_clusters\]"):
        workshop.sum_clusters(**{name: np.zeros(shape) for name, shape in (shapes | change).items()}, threads=1)


def test_codes_without_an_entry_are_refused() -> None:
    codes = np.full((1, 4), 8, np.uint8)
    with pytest.raises(ValueError, match=r"\[round_pairs\] codes must be below K"):
        workshop.round_pairs(True, -1, 16, np.zeros((2, 4)), np.eye(2), np.zeros((1, 2, 8)), np.ones(4), codes, 1)


def test_without_the_module_the_definitions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = matrix_and_hessian(7, 20, 71)
    results = []
    for module in (True, False):
        if not module:
            for where in (workshop, descent):
                monkeypatch.setattr(where, "native_module", lambda: None)
        results.append(gptvq_pairs(W, H, bits=5, rounds=2).decode())
    np.testing.assert_array_equal(*results)
