"""A product in bfloat16 is that of the rounded numbers, summed in float32 and rounded once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.models import RoundedMatrix, linear, rounded

U = 2.0**-8  # the largest relative error of rounding to bfloat16
FLOAT32 = 2.0**-24


def operands(tokens: int, width: int, out: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(width)
    return torch.randn(tokens, width, generator=draws), torch.randn(out, width, generator=draws)


def error_and_bound(y: Tensor, x: Tensor, W: Tensor) -> tuple[Tensor, Tensor]:
    """Of y against the product of the rounded x and W in float64. Bound: y is rounded once, and `width` numbers are added in float32."""
    x, W = x.bfloat16().double(), W.bfloat16().double()
    exact = x @ W.T
    return (y.double() - exact).abs(), U * exact.abs() + (1 + U) * x.shape[-1] * FLOAT32 * (x.abs() @ W.abs().T)


@pytest.mark.parametrize("width", [1, 7, 64, 1000, 8192])
def test_sums_are_made_in_float32(width: int) -> None:
    x, W = operands(33, width, 48)
    y = linear(x, RoundedMatrix(W))
    error, bound = error_and_bound(y, x, W)
    assert y.dtype is torch.float32 and y.shape == (33, 48)
    assert (error <= bound).all()


def test_the_check_of_sums_can_fail() -> None:
    x, W = operands(5, 1000, 6)
    y = torch.zeros(5, 6, dtype=torch.bfloat16)
    for column in range(1000):
        y += x[:, column : column + 1].bfloat16() * W[:, column].bfloat16()
    error, bound = error_and_bound(y, x, W)
    assert (error > bound).any()


def test_the_product_is_near_that_of_float32() -> None:
    x, W = operands(20, 256, 30)
    y = linear(x, RoundedMatrix(W))
    three_roundings = (1 + U) ** 3 - 1
    bound = three_roundings * (x.abs().double() @ W.abs().double().T) + 1e-4
    assert ((y.double() - x.double() @ W.double().T).abs() <= bound).all()
    assert float((y - linear(x, W)).norm() / linear(x, W).norm()) < U  # errors of many rows are less than the worst


def test_gradients_by_inputs_are_near_those_of_float32() -> None:
    x, W = operands(20, 64, 48)
    g = torch.randn(20, 48, generator=torch.Generator().manual_seed(1))
    x.requires_grad_(True)
    linear(x, RoundedMatrix(W)).backward(g)
    assert x.grad is not None and x.grad.dtype is torch.float32
    error, bound = error_and_bound(x.grad, g, W.T)
    assert (error <= bound + U * bound).all()


def test_a_float64_input_gives_float64() -> None:
    x, W = operands(3, 16, 4)
    assert RoundedMatrix(W).product(x.double()).dtype is torch.float64


def test_rows_are_those_of_the_matrix() -> None:
    x, W = operands(3, 64, 16)
    assert torch.equal(RoundedMatrix(W)[:1].product(x), RoundedMatrix(W[:1]).product(x))
    assert RoundedMatrix(W)[:1].shape == (1, 64)


def test_only_the_chosen_weights_are_rounded() -> None:
    _, W = operands(1, 16, 4)
    weights = {"key": W, "other": W, "vector": W[0]}
    got = rounded(weights, {"key", "absent"})
    assert isinstance(got["key"], RoundedMatrix) and got["other"] is W and list(got) == list(weights)
    assert torch.equal(functional.linear(W, W), linear(W, got["other"]))
