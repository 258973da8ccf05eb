"""The corrected target is the damped least-squares solution, computed from all tokens at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.calibration.statistics import CrossStatistics
from rwkvquant.models import RoundedMatrix
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.correction import balanced_target, corrected
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.hessian import Hessian

TOKENS, WIDTH, INPUTS = 60, 7, 5
DAMPING = 0.05


def streams(seed: int) -> tuple[np.ndarray, ...]:
    """W (out, in); x, h of the quantised model and x', h' of the full-precision one."""
    rng = np.random.default_rng(seed)
    h, x = rng.normal(size=(TOKENS, INPUTS)) @ rng.normal(size=(INPUTS, INPUTS)), rng.normal(size=(TOKENS, WIDTH))
    return rng.normal(size=(WIDTH, INPUTS)), x, h, x + 0.3 * rng.normal(size=x.shape), h + 0.3 * rng.normal(size=h.shape)


def computed_target(W: np.ndarray, x: np.ndarray, h: np.ndarray, full_x: np.ndarray, full_h: np.ndarray, strength: float) -> np.ndarray:
    """The target by the module under test, from two batches of one text each."""
    cross = CrossStatistics(torch.from_numpy(W))
    for part in (slice(0, 20), slice(20, TOKENS)):
        batch = [torch.from_numpy(a[part])[None] for a in (full_x - x, full_h - h, h)]
        cross.add(*batch)
    factors = [factorize(torch.from_numpy(h.T @ h / TOKENS), damping=DAMPING, act_order=act_order) for act_order in (False, True)]
    plain, in_order = (corrected(factor, cross.W, cross.moment, strength).numpy() for factor in factors)
    assert in_order == pytest.approx(plain, rel=1e-9, abs=1e-12)
    return in_order


@pytest.mark.parametrize("seed", range(3))
def test_target_is_dense_least_squares(seed: int) -> None:
    """min over W* of  mean |x' + h' W^T - x - h W*^T|^2 + lambda |W* - W|^2, stacked and solved as one system."""
    W, x, h, full_x, full_h = streams(seed)
    damping = DAMPING * np.mean(np.sum(h**2, 0)) / TOKENS
    A = np.vstack([h / np.sqrt(TOKENS), np.sqrt(damping) * np.eye(INPUTS)])
    B = np.vstack([(full_x + full_h @ W.T - x) / np.sqrt(TOKENS), np.sqrt(damping) * W.T])
    expected = np.linalg.lstsq(A, B, rcond=None)[0].T
    whole = computed_target(W, x, h, full_x, full_h, 1.0)
    assert np.abs(expected - W).max() > 0.05
    assert whole == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert computed_target(W, x, h, full_x, full_h, 0.25) == pytest.approx(W + 0.25 * (expected - W), rel=1e-5, abs=1e-6)


def test_without_strength_or_without_errors_the_target_is_the_weight() -> None:
    W, x, h, full_x, full_h = streams(5)
    assert np.array_equal(computed_target(W, x, h, full_x, full_h, 0.0), W)
    assert np.array_equal(computed_target(W, x, h, x, h, 1.0), W)


def test_target_makes_up_for_an_error_that_the_input_explains() -> None:
    """If the residual stream lacks h D^T, the product adds it."""
    W, x, h, *_ = streams(6)
    D = np.random.default_rng(0).normal(size=W.shape)
    target = computed_target(W, x, h, x + h @ D.T, h, 1.0)
    before, after = np.sum((h @ D.T) ** 2), np.sum((h @ (W + D - target).T) ** 2)
    assert after < 0.05 * before


def test_inputs_that_are_always_zero_leave_the_weight() -> None:
    W, x, h, full_x, _ = streams(7)
    zero = np.zeros_like(h)
    assert np.array_equal(computed_target(W, x, zero, full_x, zero, 1.0), W)


def test_a_channel_that_is_far_out_of_line_changes_no_target() -> None:
    """Channel c of the input times 2^e_c and column c over it: the same model. So the target is the same with its column c over 2^e_c."""
    W, x, h, full_x, full_h = streams(3)
    W /= np.sqrt(np.mean(W**2, 0))
    power = np.exp2([0.0, 6, 0, -7, 0])

    def target(W: np.ndarray, h: np.ndarray, full_h: np.ndarray) -> np.ndarray:
        cross = CrossStatistics(torch.from_numpy(W))
        cross.add(*(torch.from_numpy(a)[None] for a in (full_x - x, full_h - h, h)))
        hessian = Hessian(torch.from_numpy(h.T @ h / TOKENS), torch.float64)
        return balanced_target(cross.W, hessian, cross.moment, 0.5, QuantizerOptions(damping=DAMPING)).numpy()

    plain = target(W, h, full_h)
    assert plain == pytest.approx(computed_target(W, x, h, full_x, full_h, 0.5), rel=1e-9)
    assert target(W / power, h * power, full_h * power) * power == pytest.approx(plain, rel=1e-9)


def test_with_products_in_bfloat16_the_sums_are_those_of_rounded_values() -> None:
    """What is missing is x' - x + (h' - h) W^T with a product of RoundedMatrix; then it and h are rounded, and nothing else is."""
    W, x, h, full_x, full_h = (torch.from_numpy(each).float() for each in streams(7))
    matrix = RoundedMatrix(W)
    cross = CrossStatistics(matrix)
    for part in (slice(0, 20), slice(20, TOKENS)):
        cross.add((full_x - x)[part], (full_h - h)[part], h[part])
    missing = (matrix.product(full_h - h) + (full_x - x)).bfloat16().double()
    expected = missing.T @ h.bfloat16().double() / TOKENS
    assert cross.moment.numpy() == pytest.approx(expected.numpy(), rel=1e-5, abs=1e-6)
