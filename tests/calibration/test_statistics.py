"""H, the mean square and the drift follow their formulas, for any split of the tokens into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.calibration.statistics import DriftStatistics, InputStatistics
from rwkvquant.calibration.statistics import drift as drift_module
from rwkvquant.calibration.statistics import inputs as module


def test_H_is_the_mean_outer_product() -> None:
    X = np.random.default_rng(0).standard_normal((60, 7)).astype(np.float32)
    statistics = InputStatistics(7)
    for part in (X[:1], X[1:31].reshape(2, 3, 5, 7), X[31:]):
        statistics.add(torch.from_numpy(part))
    expected = X.astype(np.float64).T @ X / 60
    assert statistics.tokens == 60
    assert statistics.H.dtype == torch.float64
    np.testing.assert_allclose(statistics.H, expected, atol=1e-6)
    np.testing.assert_allclose(statistics.mean_square, expected.diagonal(), atol=1e-6)


def test_running_sums_are_float64() -> None:
    """In float32, 2^24 + 1 = 2^24: small batches after a large one would be lost."""
    statistics = InputStatistics(1)
    statistics.add(torch.full((1, 1), 4096.0))
    for _ in range(100):
        statistics.add(torch.ones(1, 1))
    assert float(statistics.H) * 101 == 4096.0**2 + 100


def test_half_precision_activations_are_multiplied_in_float32() -> None:
    x = torch.full((1, 1), 300.0, dtype=torch.float16)  # its square does not fit in float16
    statistics = InputStatistics(1)
    statistics.add(x)
    assert float(statistics.H) == 90000.0


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [600, 1030, 1100])
def test_wide_inputs_are_multiplied_out_by_half(monkeypatch: pytest.MonkeyPatch, width: int, weighted: bool) -> None:
    """Blocks of 512 on the diagonal and right of it; the last one is short."""
    monkeypatch.setattr(module, "WIDE", 1030)
    rng = np.random.default_rng(width)
    X, weights = rng.standard_normal((12, width)).astype(np.float32), rng.random((12, 1)).astype(np.float32)
    statistics = InputStatistics(width)
    for part in (slice(0, 5), slice(5, 12)):
        statistics.add(torch.from_numpy(X[part]), torch.from_numpy(weights[part]) if weighted else None)
    expected = (X * weights if weighted else X).astype(np.float64).T @ X / 12
    np.testing.assert_allclose(statistics.mean_square, expected.diagonal(), rtol=1e-5)
    assert statistics.H.dtype == (torch.float32 if width >= 1030 else torch.float64)
    np.testing.assert_allclose(statistics.H, expected, atol=1e-5)
    np.testing.assert_allclose(statistics.H, statistics.H.T, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(statistics.mean_square, expected.diagonal(), rtol=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("width", [40, 1100])
def test_rounded_sums_are_those_of_values_of_bfloat16(monkeypatch: pytest.MonkeyPatch, width: int, weighted: bool) -> None:
    """And nothing else is rounded: products are exact in float32. The precision of other products stays."""
    monkeypatch.setattr(module, "WIDE", 1030)
    rng = np.random.default_rng(width)
    X = torch.from_numpy(rng.standard_normal((12, width)).astype(np.float32))
    weights = torch.from_numpy(rng.random((12, 1)).astype(np.float32)) if weighted else None
    statistics, before = InputStatistics(width, rounded=True), torch.get_float32_matmul_precision()
    statistics.add(X, weights)
    assert torch.get_float32_matmul_precision() == before
    values = (X if weights is None else X * weights.sqrt()).bfloat16().double()
    np.testing.assert_allclose(statistics.H, values.T @ values / 12, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wide", [False, True])
def test_the_drift_is_the_mean_product_of_what_is_missing_and_what_is_there(monkeypatch: pytest.MonkeyPatch, wide: bool) -> None:
    monkeypatch.setattr(drift_module, "WIDE", 7 if wide else 8)
    rng = np.random.default_rng(0)
    missing, h = (rng.standard_normal((60, 7)).astype(np.float32) for _ in range(2))
    statistics = DriftStatistics()
    for part in (slice(0, 1), slice(1, 31), slice(31, 60)):
        statistics.add(torch.empty(0), *(torch.from_numpy(values[part])[None] for values in (missing, h)))
    assert statistics.tokens == 60 and statistics.moment.dtype == (torch.float32 if wide else torch.float64)
    np.testing.assert_allclose(statistics.moment, missing.astype(np.float64).T @ h / 60, atol=1e-5)
