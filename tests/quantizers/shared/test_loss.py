"""hessian_error is the squared change of the product's output, relative to the output."""

from __future__ import annotations

import numpy as np
import pytest

from rwkvquant.quantizers.shared.loss import hessian_error


def test_it_is_the_change_of_the_output() -> None:
    rng = np.random.default_rng(0)
    W, Q, X = rng.standard_normal((5, 9)), rng.standard_normal((5, 9)), rng.standard_normal((40, 9))
    expected = np.square(X @ W.T - X @ Q.T).sum() / np.square(X @ W.T).sum()
    assert hessian_error(W, Q, X.T @ X / 40) == pytest.approx(expected)
    assert hessian_error(W.astype(np.float32), Q.astype(np.float32), X.T @ X / 40) == pytest.approx(expected, rel=1e-5)


def test_known_values() -> None:
    W, H = np.array([[1.0, -2.0]]), np.diag([1.0, 4.0])
    assert hessian_error(W, W, H) == 0
    assert hessian_error(W, 0 * W, H) == 1
    assert hessian_error(W, np.array([[1.0, -1.0]]), H) == 4 / 17


def test_an_output_that_is_always_zero() -> None:
    W, H = np.ones((2, 3)), np.zeros((3, 3))
    assert hessian_error(W, 0 * W, H) == 0
    assert hessian_error(0 * W, 0 * W, np.eye(3)) == 0
    assert hessian_error(0 * W, W, np.eye(3)) == float("inf")
