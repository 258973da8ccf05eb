"""GPTAQ and Qronos against their definitions, column by column with explicit inverses and least squares, in float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.shared.drift import own_output
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.uniform.gptaq import shares
from rwkvquant.quantizers.uniform.grid import decode, encode, find_matrix_grids

Array = NDArray[np.float64]
Nearest = Callable[[Array, int], Array]

GRID = GridConfig(3, 32, scale_bits=16)
DAMPING = 0.05
ROWS, COLS, TOKENS = 6, 80, 300


def two_inputs(seed: int, drift: float = 0.3) -> tuple[Array, Array, Array]:
    """W (rows, cols), and the inputs x' and x (tokens, cols) of two models, of channels of different sizes."""
    random = np.random.default_rng(seed)
    full = random.standard_normal((TOKENS, COLS)) @ (np.eye(COLS) + 0.1 * random.standard_normal((COLS, COLS)))
    full *= random.lognormal(0, 0.7, COLS)
    moved = 0.9 * full + drift * full.std(0) * random.standard_normal((TOKENS, COLS))
    return random.standard_normal((ROWS, COLS)), full, moved


def statistics(full: Array, moved: Array) -> tuple[Array, Array]:
    return moved.T @ moved / TOKENS, (full - moved).T @ moved / TOKENS


def of_method(method: str, W: Array, H: Array, D: Array | None, act_order: bool, refined: bool = False) -> Array:
    options = QuantizerOptions("tuned", "none", act_order, DAMPING, refined)
    hessian = Hessian(torch.from_numpy(H), torch.float64, None if D is None else torch.from_numpy(D))
    return quantizer_for(method, GRID)(torch.from_numpy(W), hessian, GRID, options).decode().astype(np.float64)


def nearest_of(W: Array) -> Nearest:
    """Nearest points of the grids of W, for one column."""
    grids = find_matrix_grids(torch.from_numpy(W), GRID)

    def nearest(w: Array, column: int) -> Array:
        scale, zero = grids.scale[:, column // GRID.group_size], grids.zero[:, column // GRID.group_size]
        return decode(encode(torch.from_numpy(w.copy()), scale, zero, GRID.bits), scale, zero).numpy()

    return nearest


def order_of(H: Array, act_order: bool) -> list[int]:
    return np.argsort(-H.diagonal(), kind="stable").tolist() if act_order else list(range(COLS))


def gptaq_by_columns(W: Array, H: Array, D: Array, act_order: bool) -> Array:
    damped, w, Q, nearest = H + DAMPING * H.diagonal().mean() * np.eye(COLS), W.copy(), np.empty_like(W), nearest_of(W)
    order = order_of(H, act_order)
    for i, q in enumerate(order):
        left, later = order[i:], order[i + 1 :]
        Q[:, q] = nearest(w[:, q], q)
        inverse = np.linalg.inv(damped[np.ix_(left, left)])
        rounding = -np.outer((w[:, q] - Q[:, q]) / inverse[0, 0], inverse[0, 1:])
        asymmetry = np.outer(w[:, q], D[q, later] @ np.linalg.inv(damped[np.ix_(later, later)]))
        w[:, later] += rounding + asymmetry
    return Q


def qronos_by_least_squares(W: Array, full: Array, moved: Array, act_order: bool) -> Array:
    """Both steps of the paper, each solved with all tokens at hand. Damping is as many tokens more, the same in both models."""
    H, _ = statistics(full, moved)
    damping = np.sqrt(TOKENS * DAMPING * H.diagonal().mean()) * np.eye(COLS)
    full, moved = np.concatenate([full, damping]), np.concatenate([moved, damping])
    target, w, Q, nearest, order = full @ W.T, W.copy(), np.zeros_like(W), nearest_of(W), order_of(H, act_order)
    for i, t in enumerate(order):
        done, later = order[:i], order[i + 1 :]
        missing = target - moved[:, done] @ Q[:, done].T - moved[:, later] @ w[:, later].T
        best = np.linalg.lstsq(moved[:, [t]], missing, rcond=None)[0][0]
        Q[:, t] = nearest(best, t)
        done = order[: i + 1]
        w[:, later] = np.linalg.lstsq(moved[:, later], target - moved[:, done] @ Q[:, done].T, rcond=None)[0].T
    return Q


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_gptaq_is_the_formula_of_the_paper_column_by_column(seed: int, act_order: bool) -> None:
    W, full, moved = two_inputs(seed)
    H, D = statistics(full, moved)
    expected = gptaq_by_columns(W, H, D, act_order)
    np.testing.assert_allclose(of_method("gptaq", W, H, D, act_order), expected, atol=1e-6)
    assert (np.abs(of_method("gptq", W, H, None, act_order) - expected) > 1e-3).mean() > 0.05  # the drift matters


@pytest.mark.parametrize("act_order", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_qronos_is_its_greedy_definition_solved_by_least_squares(seed: int, act_order: bool) -> None:
    W, full, moved = two_inputs(seed)
    H, D = statistics(full, moved)
    expected = qronos_by_least_squares(W, full, moved, act_order)
    np.testing.assert_allclose(of_method("qronos", W, H, D, act_order), expected, atol=1e-6)
    assert (np.abs(of_method("gptaq", W, H, D, act_order) - expected) > 1e-3).mean() > 0.01  # it is another method


@pytest.mark.parametrize("method", ["gptaq", "qronos"])
@pytest.mark.parametrize("refined", [True, False])
def test_without_a_drift_both_are_gptq(method: str, refined: bool) -> None:
    W, full, _ = two_inputs(7)
    H, D = statistics(full, full)
    assert (D == 0).all()
    expected = of_method("gptq", W, H, None, True, refined)
    np.testing.assert_array_equal(of_method(method, W, H, D, True, refined), expected)
    np.testing.assert_array_equal(of_method(method, W, H, None, True, refined), expected)


def test_the_rows_of_p_are_the_least_squares_answer_of_the_later_columns() -> None:
    _, full, moved = two_inputs(1)
    H, D = statistics(full, moved)
    factor = factorize(torch.from_numpy(H), damping=0.0, act_order=False)
    P = shares(factor, torch.from_numpy(D)).numpy()
    for q in (0, 10, COLS - 2):
        answer = np.linalg.lstsq(moved[:, q + 1 :], full[:, q] - moved[:, q], rcond=None)[0]
        np.testing.assert_allclose(P[q, q + 1 :], answer, atol=1e-8)
        assert (P[q, : q + 1] == 0).all()


def test_the_target_has_the_loss_of_both_papers_up_to_a_constant() -> None:
    W, full, moved = two_inputs(2)
    H, D = statistics(full, moved)
    factor = factorize(torch.from_numpy(H), damping=DAMPING, act_order=True)
    target = own_output(factor, torch.from_numpy(W), torch.from_numpy(D)).numpy()
    weight = DAMPING * H.diagonal().mean()
    damped, random = H + weight * np.eye(COLS), np.random.default_rng(0)

    def of_paper(Q: Array) -> float:
        return float(((full @ W.T - moved @ Q.T) ** 2).sum() / TOKENS + weight * ((W - Q) ** 2).sum())

    def of_target(Q: Array) -> float:
        return float((((target - Q) @ damped) * (target - Q)).sum())

    some = [W + 0.1 * random.standard_normal(W.shape) for _ in range(3)]
    constant = of_paper(some[0]) - of_target(some[0])
    for Q in some[1:]:
        assert of_paper(Q) - of_target(Q) == pytest.approx(constant, rel=1e-9)


@pytest.mark.parametrize("method", ["gptaq", "qronos"])
def test_both_lose_less_than_gptq_on_the_full_outputs(method: str) -> None:
    """On the text that they saw. That this does not help RWKV is in docs/methods/gptaq.md."""
    for seed in range(3):
        W, full, moved = two_inputs(seed)
        H, D = statistics(full, moved)

        def loss(Q: Array, W: Array = W, full: Array = full, moved: Array = moved) -> float:
            return float(((full @ W.T - moved @ Q.T) ** 2).mean())

        plain, refined = (loss(of_method(method, W, H, D, True, each)) for each in (False, True))
        assert refined < plain < loss(of_method("gptq", W, H, None, True))


def test_a_dead_column_and_rows_of_any_number_do_no_harm() -> None:
    W, full, moved = two_inputs(3)
    full[:, 4] = moved[:, 4] = 0
    H, D = statistics(full, moved)
    for method in ("gptaq", "qronos"):
        whole = of_method(method, W, H, D, True)
        assert np.isfinite(whole).all()
        np.testing.assert_array_equal(of_method(method, W[:1], H, D, True), whole[:1])  # rows do not depend on each other
