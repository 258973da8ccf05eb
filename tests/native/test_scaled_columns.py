"""Native rounding of columns that have a scale each is the definition, in every body, for any number of rows."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import _native
from rwkvquant.codecs import SectionsConfig
from rwkvquant.kernels import workshop
from rwkvquant.quantizers.columnwise import columns, update
from rwkvquant.quantizers.columnwise.state import State
from rwkvquant.quantizers.columnwise.walk import FITS, round_block, walk
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.residual import Residual
from tests.quantizers.columnwise.test_columnwise import problem, quantised, state_of

ROWS = [1, 31, 32, 70]  # sums are kept apart for 32 rows
COLUMNS = 2 * columns.PART + 6
DTYPES = [torch.float32, torch.float64]


def agree(result: State, expected: State, dtype: torch.dtype) -> None:
    """Codes and scales are the same; in float32 except the few that the rounding of a sum decides."""
    least = 1.0 if dtype == torch.float64 else 0.99
    assert float((result.codes == expected.codes).double().mean()) >= least
    assert float((result.col_scale == expected.col_scale).double().mean()) >= least - (dtype == torch.float32) * 0.05


def typed(state: State, dtype: torch.dtype) -> State:
    tables = {width: table.to(dtype) for width, table in state.tables.items()}
    return State(state.widths, tables, state.row_scale.to(dtype), state.col_scale.to(dtype), state.codes)


@pytest.mark.parametrize("factored", [True, False], ids=["feedback", "alone"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.usefixtures("isa")
def test_rounding_a_block_is_the_definition(rows: int, dtype: torch.dtype, factored: bool) -> None:
    W, H = problem(rows, rows, COLUMNS)
    factor = factorize(H, damping=0.05, act_order=True)
    U, order = factor.U.to(dtype) if factored else None, factor.order
    native, plain = (typed(state_of(W, rows), dtype) for _ in range(2))
    block = W.T[order].contiguous().to(dtype)
    corrected = block.clone()
    result = columns.feed_back(native, order, corrected, U, FITS)
    expected = round_block(plain, order, block, U)
    assert result is not None
    agree(native, plain, dtype)
    assert plain.codes.max() > 15 and bool((plain.col_scale != typed(state_of(W, rows), dtype).col_scale).any())
    if factored and dtype == torch.float64:
        torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(corrected, block, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.usefixtures("isa")
def test_a_pass_of_descent_is_the_definition(rows: int, dtype: torch.dtype) -> None:
    W, H = problem(rows + 1, rows, 140)
    H[5], H[:, 5] = 0, 0  # with a penalty, such a column is changed too
    start = state_of(W, rows)
    walk(W, start, factorize(H, damping=0.05, act_order=True))
    for penalty in (0.0, 0.05 * float(H.diagonal().mean())):
        native, plain = (typed(deepcopy(start), dtype) for _ in range(2))
        residuals = [Residual(W.to(dtype), H.to(dtype), state.decode().T) for state in (native, plain)]
        assert update._native_pass(residuals[0], native, penalty)
        update.one_pass(residuals[1], plain, penalty)
        agree(native, plain, dtype)
        assert bool((plain.codes != start.codes).any()) or rows == 1
        if dtype == torch.float64:
            for result, expected in zip((residuals[0].G, residuals[0].E), (residuals[1].G, residuals[1].E), strict=True):
                torch.testing.assert_close(result, expected, rtol=1e-9, atol=1e-9)


def test_bodies_and_threads_change_no_bit() -> None:
    W, H = (part.float() for part in problem(3, 600, 90))
    before, threads, results = _native.isa(), torch.get_num_threads(), []
    for name in _native.available_isas():
        for count in (1, 3):
            _native.set_isa(name)
            torch.set_num_threads(count)
            results.append(quantised("gptvq", W, H, SectionsConfig(3.5)))
    _native.set_isa(before)
    torch.set_num_threads(threads)
    for other in results[1:]:
        for result, expected in ((other.codes, results[0].codes), (other.col_scale, results[0].col_scale)):
            np.testing.assert_array_equal(result, expected)


@pytest.mark.usefixtures("isa")
def test_of_two_equally_near_entries_the_lower_is_taken() -> None:
    state = state_of(torch.zeros(1, 40, dtype=torch.float64))
    state.row_scale, state.col_scale = torch.ones_like(state.row_scale), torch.ones_like(state.col_scale)
    for place in (0, 1, -2):
        tables = [state.tables[width] for width in state.widths.tolist()]
        block = torch.stack([(table[place] + table[place + 1]) / 2 for table in tables])[:, None]
        errors = columns.feed_back(state, torch.arange(40), block.clone(), torch.eye(40).double(), 0)
        assert errors is not None and torch.equal(errors, block - torch.stack([table[place] for table in tables])[:, None])
        assert state.codes[:, 0].tolist() == [range(len(table))[place] for table in tables]


@pytest.mark.usefixtures("isa")
def test_scales_are_rounded_to_what_a_file_can_hold() -> None:
    """All float16 above 0, the numbers half-way between them, and those around."""
    halves = np.arange(1, 0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    middles = (halves[1:] + halves[:-1]) / 2
    for dtype in (np.float32, np.float64):
        near = [np.nextafter(middles.astype(dtype), dtype(end)) for end in (0, np.inf)]
        given = np.concatenate([halves, middles, *near, [0.0, -1.0, 1e-30, 1e30]]).astype(dtype)
        scales, count = given.copy(), len(given)
        zeros = {name: np.zeros((count, 1), kind) for name, kind in (("block", dtype), ("codes", np.uint8), ("changes", dtype))}
        tables, widths = np.zeros((7, 64), dtype), np.full(count, 2, np.int32)
        workshop.round_scaled_columns(
            False, zeros["block"], None, tables, widths, np.ones(1, dtype), scales, zeros["codes"], zeros["changes"]
        )
        expected = np.clip(given, halves[0], halves[-1]).astype(np.float32).astype(np.float16)
        np.testing.assert_array_equal(scales, expected.astype(dtype))


def good(**changes: Any) -> dict[str, Any]:
    def zeros(*shape: int) -> np.ndarray:
        return np.zeros(shape, np.float32)

    given = {
        "descent": True,
        "block": zeros(2, 5),
        "matrix": zeros(2, 2),
        "tables": zeros(7, 64),
        "widths": np.array([2, 6], np.int32),
        "row_scale": zeros(5),
        "scales": zeros(2),
        "codes": np.full((2, 5), 3, np.uint8),
        "changes": zeros(2, 5),
        "E": zeros(2, 5),
    }
    return given | changes


@pytest.mark.parametrize(
    "change",
    [
        {"matrix": None},
        {"matrix": np.zeros((2, 3), np.float32)},
        {"E": None},
        {"E": np.zeros((2, 4), np.float32)},
        {"tables": np.zeros((7, 128), np.float32)},
        {"tables": np.zeros((6, 64), np.float32)},
        {"tables": np.zeros((7, 32), np.float32)},
        {"widths": np.array([0, 6], np.int32)},
        {"widths": np.array([2, 7], np.int32)},
        {"widths": np.array([2], np.int32)},
        {"row_scale": np.zeros(4, np.float32)},
        {"scales": np.zeros(3, np.float32)},
        {"codes": np.full((2, 5), 4, np.uint8)},
        {"codes": np.zeros((2, 4), np.uint8)},
        {"changes": np.zeros((3, 5), np.float32)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_arrays_that_do_not_fit_are_refused(change: dict[str, Any]) -> None:
    assert workshop.round_scaled_columns(**good())
    with pytest.raises(ValueError, match=r"\[round_scaled_columns\]"):
        workshop.round_scaled_columns(**good(**change))


def test_without_the_module_the_definitions_run(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = problem(8, 20, 90)
    results = []
    for present in (True, False):
        if not present:
            for where in (workshop, update):
                monkeypatch.setattr(where, "native_module", lambda: None)
        results.append([quantised(method, W, H, SectionsConfig(3.5)).decode() for method in ("kmeans", "gptvq")])
    for result, expected in zip(*results, strict=True):
        np.testing.assert_array_equal(result, expected)
