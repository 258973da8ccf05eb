"""Blocked GPTQ is the column-by-column definition, code for code; and it loses less than RTN."""

from __future__ import annotations

import functools
import logging

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.shared.factor import factorize, is_finite
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.quantizers.uniform.gptq import gptq, gptq_with
from rwkvquant.quantizers.uniform.grid import shrink_factors
from rwkvquant.quantizers.uniform.rtn import rtn
from tests.quantizers.examples import matrix_and_hessian
from tests.quantizers.uniform.definition import gptq_by_definition

ROWS, COLS = 4, 150  # no multiple of any group or block below; the last group is short
ORDERS = {"paper": (False, False), "static": (True, False), "act_order": (True, True)}  # static groups, act order


def same(a: UniformTensor, b: UniformTensor) -> bool:
    arrays = ("codes", "zeros", "scales", "scale_codes", "row_scale")
    pairs = [(getattr(a, name), getattr(b, name)) for name in arrays]
    return all((x is None and y is None) or np.array_equal(x, y) for x, y in pairs)


@functools.cache
def expected(grid: GridConfig, order: str, clip_search: str) -> UniformTensor:
    W, H = matrix_and_hessian(1)
    static_groups, act_order = ORDERS[order]
    shrinks = (1.0,) if clip_search == "none" else shrink_factors(grid.bits)
    importance = H.diagonal() if clip_search == "hessian" else None
    return gptq_by_definition(
        W, H, grid, damping=0.01, act_order=act_order, static_groups=static_groups, shrinks=shrinks, importance=importance
    )


@pytest.mark.parametrize("block_size", [1, 32, 96, 128], ids=lambda b: f"block{b}")
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("scale_bits", [8, 16], ids=lambda b: f"scale{b}")
@pytest.mark.parametrize("symmetric", [True, False], ids=["sym", "asym"])
@pytest.mark.parametrize("group_size", [32, 64, 128], ids=lambda g: f"g{g}")
def test_blocked_gptq_is_the_definition(block_size: int, group_size: int, symmetric: bool, scale_bits: int, order: str) -> None:
    W, H = matrix_and_hessian(1)
    grid = GridConfig(3, group_size, symmetric, scale_bits)
    static_groups, act_order = ORDERS[order]
    result = gptq(W, H, grid, damping=0.01, act_order=act_order, static_groups=static_groups, block_size=block_size)
    assert same(result, expected(grid, order, "none"))


@pytest.mark.parametrize("clip_search", ["weight", "hessian"])
@pytest.mark.parametrize("order", ORDERS)
def test_clip_search_in_gptq_is_the_definition(order: str, clip_search: str) -> None:
    W, H = matrix_and_hessian(1)
    grid = GridConfig(2, 64)
    static_groups, act_order = ORDERS[order]
    result = gptq(W, H, grid, damping=0.01, act_order=act_order, static_groups=static_groups, clip_search=clip_search, block_size=96)
    assert same(result, expected(grid, order, clip_search))


@pytest.mark.parametrize("bits", range(1, 9))
def test_every_width_is_the_definition(bits: int) -> None:
    W, H = matrix_and_hessian(2, rows=2, cols=70)
    grid = GridConfig(bits, 32)
    result = gptq(W, H, grid, damping=0.01, act_order=True)
    assert same(result, gptq_by_definition(W, H, grid, damping=0.01, act_order=True, static_groups=True))
    assert result.codes.max() < 2**bits


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [2, 3, 4, 6])
def test_gptq_loses_less_than_rtn(bits: int, order: str) -> None:
    W, H = matrix_and_hessian(3)
    grid = GridConfig(bits, 32)
    static_groups, act_order = ORDERS[order]
    result = gptq(W, H, grid, damping=0.01, act_order=act_order, static_groups=static_groups)
    assert hessian_error(W, result.decode(), H) < hessian_error(W, rtn(W, grid).decode(), H)


def test_float32_is_close_to_float64() -> None:
    W, H = matrix_and_hessian(4)
    grid = GridConfig(3, 64)
    double = gptq(W, H, grid)
    single = gptq(W.astype(np.float32), H, grid)
    assert (single.codes == double.codes).mean() > 0.99  # a few weights are within float32's error of a tie
    loss = hessian_error(W, double.decode(), H)
    assert hessian_error(W, single.decode(), H) == pytest.approx(loss, rel=0.02)


def test_one_factor_serves_many_grids() -> None:
    W, H = (torch.from_numpy(array) for array in matrix_and_hessian(5))
    factor = factorize(H, damping=0.05, act_order=True)
    before = W.clone()
    for grid in (GridConfig(3, 64), GridConfig(5, 32, symmetric=True)):
        assert same(gptq_with(factor, W, grid, static_groups=True), gptq(W, H, grid, damping=0.05, act_order=True))
    assert torch.equal(W, before)


@pytest.mark.parametrize("act_order", [False, True])
def test_the_factor_is_that_of_the_inverse(act_order: bool) -> None:
    _, H = matrix_and_hessian(6)
    factor = factorize(torch.from_numpy(H), damping=0.0, act_order=act_order)
    order = factor.order.numpy()
    U = factor.U.numpy()
    assert np.array_equal(U, np.triu(U))
    np.testing.assert_allclose(U.T @ U @ H[np.ix_(order, order)], np.eye(COLS), atol=1e-8)
    assert (np.diff(H.diagonal()[order]) <= 0).all() == act_order


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_dead_columns_are_rounded_to_nearest_and_change_no_other_column(damping: float) -> None:
    W, H = matrix_and_hessian(7)
    dead, alive = [3, 77, 149], [q for q in range(COLS) if q not in (3, 77, 149)]
    H[dead] = 0
    H[:, dead] = 0
    grid = GridConfig(3, 32)
    assert factorize(torch.from_numpy(H), damping=damping, act_order=True).damping == damping  # not singular
    result = gptq(W, H, grid, damping=damping, act_order=True)
    nearest = rtn(W, grid)
    assert np.array_equal(result.codes[:, dead], nearest.codes[:, dead])
    changed = W.copy()
    changed[:, dead] = np.clip(0.9 * W[:, dead], -1, 1)  # within every group's range: the grids stay
    assert np.array_equal(gptq(changed, H, grid, damping=damping, act_order=True).codes[:, alive], result.codes[:, alive])


def test_an_input_that_was_always_zero_leaves_rtn() -> None:
    W, H = matrix_and_hessian(8)
    grid = GridConfig(3, 64)
    assert same(gptq(W, np.zeros_like(H), grid, damping=0.0), rtn(W, grid))


def test_an_uncorrelated_input_leaves_rtn() -> None:
    W, H = matrix_and_hessian(8)
    grid = GridConfig(3, 64)
    assert same(gptq(W, np.diag(H.diagonal()), grid), rtn(W, grid))


@pytest.mark.parametrize("below_zero", [0.0, 0.05], ids=["rank1", "indefinite"])
def test_a_singular_hessian_raises_the_damping_and_says_so(below_zero: float, caplog: pytest.LogCaptureFixture) -> None:
    # All inputs are the same; with `below_zero`, H is worse than rounding could make it.
    H = np.ones((COLS, COLS)) - below_zero * np.eye(COLS)
    with caplog.at_level(logging.WARNING):
        factor = factorize(torch.from_numpy(H), damping=0.0, act_order=True)
    assert factor.damping == pytest.approx(0.1 if below_zero else 1e-4)
    assert "singular" in caplog.text
    damped = H + factor.damping * H.diagonal().mean() * np.eye(COLS)
    np.testing.assert_allclose((factor.U.T @ factor.U).numpy() @ damped, np.eye(COLS), atol=1e-6)
    assert factorize(torch.from_numpy(H), damping=0.5, act_order=True).damping == 0.5
    W, _ = matrix_and_hessian(9)
    assert np.isfinite(gptq(W, H, GridConfig(3, 64), damping=0.0).decode()).all()


def test_the_inputs_are_not_changed() -> None:
    W, H = matrix_and_hessian(10)
    before = W.copy(), H.copy()
    gptq(W, H, GridConfig(3, 64), static_groups=True, act_order=False)
    gptq(W, H, GridConfig(3, 64), act_order=False)
    assert np.array_equal(W, before[0]) and np.array_equal(H, before[1])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_one_number_that_is_not_finite_is_detected(value: float) -> None:
    values = torch.zeros(7, 9)
    assert is_finite(values)
    values[3, 5] = value
    assert not is_finite(values)
