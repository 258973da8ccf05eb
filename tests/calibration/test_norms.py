"""Norms that follow a mix bring the residual stream nearer to that of the full-precision model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkvquant.calibration.collect import HiddenStates
from rwkvquant.calibration.norms import fit_norm
from rwkvquant.calibration.statistics import ChannelFit

WIDTH, TOKENS, IMAGES = 6, 9, 8


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_line_is_least_squares_of_each_channel() -> None:
    y, missing = numbers(40, WIDTH), numbers(40, WIDTH, seed=1) + 0.3 * numbers(40, WIDTH) + 1
    sums = ChannelFit(WIDTH)
    sums.add(y[:10].view(2, 5, WIDTH), missing[:10].view(2, 5, WIDTH))
    sums.add(y[10:], missing[10:])
    a, b = sums.line(1.0)
    for channel in range(WIDTH):
        X = np.stack([y[:, channel].double().numpy(), np.ones(40)], 1)
        slope, shift = np.linalg.lstsq(X, X[:, 0] + missing[:, channel].double().numpy(), rcond=None)[0]
        assert (float(a[channel]), float(b[channel])) == pytest.approx((slope, shift), rel=1e-6)
    half_a, half_b = sums.line(0.5)
    torch.testing.assert_close(half_a, (1 + a) / 2)
    torch.testing.assert_close(half_b, b / 2)
    assert all(bool((each == value).all()) for each, value in zip(sums.line(0.0), (1, 0), strict=True))


def test_a_channel_of_a_constant_only_gets_a_shift() -> None:
    sums = ChannelFit(2)
    sums.add(torch.tensor([[3.0, 1.0], [3.0, 2.0]]), torch.tensor([[1.0, 0.5], [2.0, 1.0]]))
    a, b = sums.line(1.0)
    assert a.tolist() == pytest.approx([1, 1.5]) and b.tolist() == pytest.approx([1.5, 0], abs=1e-12)


def block(weights: dict[str, Tensor], x: Tensor, state: None, carry: None, tap: object) -> tuple[Tensor, None, None]:
    """x + gamma (w z + b) with z = x W, in place of a norm."""
    y = weights["ln1.weight"] * (x @ weights["W"]) + weights["ln1.bias"]
    x = x + weights["gamma1"] * y
    if tap is not None:
        tap("ln1.out", y)  # type: ignore[operator]
        tap("ln1.sum", x)  # type: ignore[operator]
    return x, None, None


def test_the_fit_is_the_best_that_weight_and_bias_can_do(tmp_path: Path) -> None:
    gamma = numbers(WIDTH, seed=2)
    gamma[4] = 0.0  # nothing of this channel is added to the stream
    original = {"W": numbers(WIDTH, WIDTH), "ln1.weight": numbers(WIDTH, seed=3), "ln1.bias": numbers(WIDTH, seed=4), "gamma1": gamma}
    quantised = original | {"W": original["W"] + 0.2 * numbers(WIDTH, WIDTH, seed=5) + 0.1}
    streams = [HiddenStates(tmp_path, IMAGES, TOKENS, WIDTH, name=name) for name in ("hidden", "reference")]
    inputs = [numbers(IMAGES, TOKENS, WIDTH, seed=6), numbers(IMAGES, TOKENS, WIDTH, seed=6) + 0.1 * numbers(IMAGES, TOKENS, WIDTH, seed=7)]
    for stream, x in zip(streams, inputs, strict=True):
        stream.fill(lambda rows, x=x: x[rows], 3)  # type: ignore[misc]
    seen = range(5)

    def fitted(share: float) -> dict[str, Tensor]:
        new = fit_norm(block, quantised, original, "ln1", "gamma1", (streams[0], streams[1]), 3, seen, share)  # type: ignore[arg-type]
        assert new.keys() == {"ln1.weight", "ln1.bias"} and all(each.dtype == torch.float32 for each in new.values())
        return quantised | new

    def error(weights: dict[str, Tensor]) -> float:
        after = [block(each, x[seen.start : seen.stop], None, None, None)[0] for each, x in zip((weights, original), inputs, strict=True)]
        return float((after[0] - after[1]).square().sum())

    best = fitted(1.0)
    assert error(best) < 0.9 * error(quantised)
    assert error(quantised) > error(fitted(0.5)) > error(best)
    for name in ("ln1.weight", "ln1.bias"):
        assert best[name][4] == quantised[name][4]
        for change in (0.01, -0.01):
            assert error(best | {name: best[name] + change}) > error(best)
