"""The native loops over columns and tables are the definitions, in every body, for any number of rows and of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkvquant import _native
from rwkvquant.codecs import GridConfig
from rwkvquant.kernels import workshop
from rwkvquant.quantizers.codebook import descent as codebook_descent
from rwkvquant.quantizers.codebook import factors as codebook_factors
from rwkvquant.quantizers.codebook import walk
from rwkvquant.quantizers.codebook.gptvq import gptvq
from rwkvquant.quantizers.codebook.update import Centroids
from rwkvquant.quantizers.pairs import descent as pairs_descent
from rwkvquant.quantizers.pairs.gptvq import gptvq_pairs
from rwkvquant.quantizers.shared import descent
from rwkvquant.quantizers.shared.columns import GridColumns, TableColumns, feed_back
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.limits import LIMITS
from rwkvquant.quantizers.shared.residual import Residual
from rwkvquant.quantizers.uniform import descent as uniform_descent
from rwkvquant.quantizers.uniform.gptq import gptq, round_block
from rwkvquant.quantizers.uniform.grid import find_matrix_grids
from rwkvquant.quantizers.uniform.rtn import rtn
from tests.quantizers.examples import matrix_and_hessian

ROWS = [1, 63, 64, 130]  # the native loops take 64 rows at a time
DTYPES = [torch.float32, torch.float64]
STEPS: dict[str, Any] = {
    "grid": uniform_descent.STEPS,
    "scale16": uniform_descent.STEPS,
    "pairs": pairs_descent.STEPS,
    "odd_pairs": pairs_descent.STEPS,
}


def on_threads(count: int, work: Callable[[], Any]) -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        return work()
    finally:
        torch.set_num_threads(before)


def block_and_factor(rows: int, dtype: torch.dtype, columns: int = 20) -> tuple[Tensor, Tensor]:
    """A block (columns, rows) and U."""
    W, H = matrix_and_hessian(rows, rows, columns)
    return torch.from_numpy(W).T.contiguous().to(dtype), factorize(torch.from_numpy(H), damping=0.01, act_order=False).U.to(dtype)


def agree(result: tuple[Tensor, Tensor] | None, expected: tuple[Tensor, Tensor], dtype: torch.dtype) -> None:
    """Codes are the same; in float32 except the few that the rounding of a sum decides."""
    assert result is not None
    assert float((result[0] == expected[0]).double().mean()) >= (1.0 if dtype == torch.float64 else 0.99)
    if dtype == torch.float64:
        torch.testing.assert_close(result[1], expected[1], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.usefixtures("isa")
def test_feedback_to_grids_is_the_definition(rows: int, dtype: torch.dtype) -> None:
    block, U = block_and_factor(rows, dtype)
    groups = [i * 7 % 3 for i in range(len(block))]  # columns out of order
    grids = find_matrix_grids(torch.randn(rows, 96, generator=torch.Generator().manual_seed(0)), GridConfig(3, 32))
    expected = round_block(block, U, grids, groups, 3)
    agree(feed_back(GridColumns(grids.scale, grids.zero, 3), block, U, groups), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("bits", "group_rows"), [(1, 1), (3, 2), (4, 16)])
@pytest.mark.usefixtures("isa")
def test_feedback_to_tables_is_the_definition(bits: int, group_rows: int, rows: int, dtype: torch.dtype) -> None:
    block, U = block_and_factor(rows, dtype)
    draws = torch.Generator().manual_seed(1)
    centroids = torch.randint(-64, 64, (-(-rows // group_rows), 3, 2**bits), generator=draws).to(dtype)
    scale = torch.rand(rows, 1, generator=draws).to(dtype) / 30 + 0.01
    tables = walk._ascending(centroids, scale, group_rows)
    table = [i * 7 % 3 for i in range(len(block))]
    expected = walk.round_block(block, U, tables, table)
    agree(feed_back(tables, block, U, table), expected, dtype)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", ["grid", "scale16", "codebook", "compressed", "pairs", "odd_pairs"])
@pytest.mark.usefixtures("isa")
def test_a_pass_of_descent_is_the_definition(kind: str, rows: int) -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(rows + 1, rows, 141 if kind == "odd_pairs" else 140))
    q: Any = {
        "grid": lambda: rtn(W, GridConfig(3, 32)),
        "scale16": lambda: rtn(W, GridConfig(2, 64, True, 16)),
        "codebook": lambda: gptvq(W, H, rounds=0),
        "compressed": lambda: gptvq(W, H, group_rows=4, rank=2, rounds=0),
        "pairs": lambda: gptvq_pairs(W, H, bits=6, group_rows=48, rounds=0),
        "odd_pairs": lambda: gptvq_pairs(W, H, bits=4, group_rows=16, rounds=0),
    }[kind]()
    native, plain = Residual(W, H, q.decode()), Residual(W, H, q.decode())
    steps: Any = STEPS.get(kind, codebook_descent.STEPS)
    result, expected = descent._native_pass(steps, q, native), descent.one_pass(steps, q, plain)
    assert result is not None and torch.equal(result, expected) and bool((torch.from_numpy(q.codes) != expected.T).any())
    torch.testing.assert_close(native.G, plain.G, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(native.E, plain.E, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("rows", "cols", "group_rows"), [(5, 70, 2), (130, 40, 4), (3, 8, 16)])
@pytest.mark.usefixtures("isa")
def test_sums_by_codes_are_the_definition(rows: int, cols: int, group_rows: int) -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(4, rows, cols))
    centroids = Centroids(Residual(W, H, 0 * W), gptvq(W, H, group_rows=group_rows, rounds=0))
    for block, codes in enumerate(centroids.codes):
        columns = slice(32 * block, min(32 * block + 32, cols))
        result = centroids._native_gram(columns)
        assert result is not None
        torch.testing.assert_close(result, centroids._gram(codes, H[columns, columns]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("K", "R", "tables"), [(2, 1, 3), (8, 4, 100), (16, 8, 300)])
@pytest.mark.usefixtures("isa")
def test_steps_of_coefficients_are_the_definition(K: int, R: int, tables: int) -> None:
    rng = np.random.default_rng(K)
    A = rng.normal(size=(tables, K, 2 * K))
    N, g = torch.from_numpy(A @ A.transpose(0, 2, 1)), torch.from_numpy(rng.normal(size=(tables, K)) * 100)
    u, solved = (torch.from_numpy(rng.integers(-127, 128, (tables, R)).astype(float)) for _ in range(2))
    basis = torch.from_numpy(rng.integers(-127, 128, (R, K)).astype(float))
    result, expected = (step(N, g, u, solved, basis, 7) for step in (codebook_factors._native_steps, codebook_factors._steps))
    assert torch.equal(result, expected) and bool((result != u).any()) and float(result.abs().max()) <= 127


def test_threads_and_bodies_change_no_bit() -> None:
    W, H = (torch.from_numpy(part).float() for part in matrix_and_hessian(6, 600, 64))
    before, results = _native.isa(), []
    for name in _native.available_isas():
        _native.set_isa(name)
        for threads in (1, 3):
            results.append(on_threads(threads, lambda: gptvq(W, H, group_rows=4, rank=2, rounds=0).codes))
    _native.set_isa(before)
    block, U = block_and_factor(600, torch.float32)
    columns = GridColumns(torch.full((600, 1), 0.5), torch.full((600, 1), 4.0), 3)
    rounded = [on_threads(threads, lambda: feed_back(columns, block, U, [0] * len(block))) for threads in (1, 2, 5)]
    assert all(torch.equal(a, b) for other in rounded[1:] for a, b in zip(rounded[0], other, strict=True))
    assert all(np.array_equal(results[0], other) for other in results)
    assert (*LIMITS,) == (-64, 63)


@pytest.mark.parametrize(
    "change",
    [{"bits": 0}, {"bits": 9}, {"table": np.array([0, 5], np.int32)}, {"table": np.zeros(3, np.int32)}, {"scale": None}, {"zero": None}],
    ids=str,
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    good: dict[str, Any] = {"bits": 3, "table": np.zeros(2, np.int32), "scale": zeros(1, 5), "zero": zeros(1, 5)}
    given = good | change
    bits, table = given.pop("bits"), given.pop("table")
    with pytest.raises(ValueError, match=r"\[round_columns\]"):
        workshop.round_columns(False, bits, zeros(2, 5), zeros(2, 2), table, np.zeros((2, 5), np.uint8), 1, **given)


def test_codes_without_a_centroid_are_refused() -> None:
    codes = np.full((2, 4), 8, np.uint8)
    with pytest.raises(ValueError, match=r"\[code_gram\] codes must be below K"):
        workshop.code_gram(codes, np.eye(2), np.ones(4), 2, 8, 1)


def test_without_the_module_the_definitions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = matrix_and_hessian(7, 6, 70)
    results = []
    for module in (True, False):
        if not module:
            for where in (workshop, descent, codebook_factors):
                monkeypatch.setattr(where, "native_module", lambda: None)
        results.append([gptvq(W, H, rank=rank, rounds=2).decode() for rank in (0, 2)] + [gptq(W, H, GridConfig(3, 32)).decode()])
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
    assert TableColumns(torch.zeros(1, 1, 8), torch.ones(2, 1), 2).bits == 3
