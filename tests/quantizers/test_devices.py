"""Quantisers work on the device of their weight: the CPU, or a GPU where there is one; never on two devices at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkvquant.calibration.statistics import CrossStatistics, Importance, InputStatistics, Sensitivity
from rwkvquant.calibration.statistics.importance import READINGS
from rwkvquant.codecs import (
    CodebookConfig,
    ColumnwiseConfig,
    GridConfig,
    PairConfig,
    PolarConfig,
    RowTablesConfig,
    SectionsConfig,
    VectorsConfig,
)
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.elementwise.codebooks import vector_codebook
from rwkvquant.quantizers.shared.correction import corrected
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error, hessian_loss
from tests.quantizers.examples import matrix_and_hessian
from tests.quantizers.other_device import DEVICE, OtherDevice

TUNED, PAPER = QuantizerOptions(), QuantizerOptions("paper", "weight", False, 0.01)
METHODS: list[tuple[str, Any, QuantizerOptions]] = [
    *(("rtn", GridConfig(3, 32, symmetric, bits), TUNED) for symmetric, bits in ((False, 8), (True, 16))),
    *(("gptq", GridConfig(3, 32, symmetric, bits), options) for symmetric, bits, options in ((False, 8, TUNED), (True, 16, PAPER))),
    *((method, GridConfig(3, 32), options) for method in ("gptaq", "qronos") for options in (TUNED, PAPER)),
    *(("kmeans", codec, options) for codec in (CodebookConfig(3, 4), CodebookConfig(3, 4, 2)) for options in (TUNED, PAPER)),
    *(("gptvq", codec, options) for codec in (CodebookConfig(3, 4), CodebookConfig(3, 4, 2)) for options in (TUNED, PAPER)),
    *((method, RowTablesConfig(3), TUNED) for method in ("kmeans", "lnq")),
    *((method, VectorsConfig(4, 5, 3), options) for method in ("kmeans", "vptq") for options in (TUNED, PAPER)),
    *((method, PolarConfig(12, 4), options) for method in ("pcdvq", "ldlq") for options in (TUNED, PAPER)),
    *((method, codec, TUNED) for method in ("kmeans", "gptvq") for codec in (PairConfig(4, 16), ColumnwiseConfig(3), SectionsConfig(3))),
]
IDS = [f"{method}-{codec}-{options.style}" for method, codec, options in METHODS]


def error_of(method: str, codec: Any, options: QuantizerOptions, move: Callable[[Tensor], Tensor]) -> float:
    """The error after quantising on another device: all inputs are moved there first, and the result is NumPy arrays."""
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 6, 40))
    there = move(W)
    quantizer, drift = quantizer_for(method, codec), 0.01 * H.roll(1, 0)
    quantised = quantizer(there, Hessian(move(H), W.dtype, move(drift) if quantizer.drift else None), codec, options)
    error = hessian_error(there, quantised.decode(), move(H))
    assert error == pytest.approx(hessian_error(W, quantised.decode(), H))
    return error


@cache
def expected_error(method: str, codec: Any, options: QuantizerOptions) -> float:
    """That on the CPU."""
    return error_of(method, codec, options, lambda x: x)


@pytest.mark.parametrize(("method", "codec", "options"), METHODS, ids=IDS)
def test_every_method_has_the_same_loss_on_every_device(method: str, codec: Any, options: QuantizerOptions, device: torch.device) -> None:
    expected = expected_error(method, codec, options)
    assert error_of(method, codec, options, lambda x: x.to(device)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("method", "codec", "options"), METHODS, ids=IDS)
def test_no_method_mixes_devices(method: str, codec: Any, options: QuantizerOptions) -> None:
    expected = expected_error(method, codec, options)
    with OtherDevice() as other:
        assert error_of(method, codec, options, other.there) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("reading", READINGS)
def test_vectors_and_activations_may_be_on_another_device(reading: str) -> None:
    mu, X = torch.randn(100), torch.randn(20, 100)
    importance = Importance(100, reading)
    importance.add(X)
    expected = vector_codebook(mu, importance.weights, 3, reading).decode()
    with OtherDevice() as other:
        elsewhere = Importance(100, reading)
        elsewhere.add(other.there(X))
        np.testing.assert_array_equal(vector_codebook(other.there(mu), elsewhere.weights, 3, reading).decode(), expected)


def test_sums_and_corrections_stay_on_the_device_of_the_activations() -> None:
    X, G, W = torch.randn(30, 16), torch.randn(30, 8), torch.randn(8, 16)
    with OtherDevice() as other:
        x, g, w = other.there(X), other.there(G), other.there(W)
        inputs, sensitivity, cross = InputStatistics(16, DEVICE), Sensitivity(8, 16, DEVICE), CrossStatistics(w)
        inputs.add(x)
        sensitivity.add(x, g)
        cross.add(g, 0.1 * x, x)
        rows = torch.arange(3)
        assert sensitivity.loss(w[:3], rows) > 0 and sensitivity.rows[rows].device == DEVICE
        target = corrected(factorize(inputs.H.to(w), damping=0.1, act_order=True), w, cross.moment, 0.5)
        assert target.device == DEVICE and hessian_loss(w, target.cpu().numpy(), inputs.H) > 0


def test_the_pretended_device_refuses_what_a_gpu_refuses() -> None:
    with OtherDevice() as other:
        x = other.there(torch.ones(3))
        assert (x + 1).device == torch.zeros(1, device=DEVICE).device == DEVICE and (x + x).cpu().numpy().tolist() == [2, 2, 2]
        with pytest.raises(AssertionError, match="two devices"):
            x + torch.ones(3)
        with pytest.raises(AssertionError, match=r"\.cpu\(\) comes first"):
            x.numpy()
