"""Quantising a few rows at a time gives the same as the whole matrix at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.uniform import methods
from tests.quantizers.examples import matrix_and_hessian


@pytest.mark.parametrize("grid", [GridConfig(3, 32), GridConfig(4, 64, True, 16)], ids=str)
def test_rows_of_a_grid_may_be_quantised_separately(monkeypatch: pytest.MonkeyPatch, grid: GridConfig) -> None:
    W, H = (torch.from_numpy(part) for part in matrix_and_hessian(1, 23, 70))
    result = []
    for weights in (1 << 24, 5 * 70):  # all rows, and five at a time
        monkeypatch.setattr(methods, "CHUNK_WEIGHTS", weights)
        result.append(methods.quantize_gptq(W, Hessian(H, W.dtype), grid, QuantizerOptions()))
    whole, parts = result
    for name in ("codes", "zeros", "scales", "scale_codes", "row_scale"):
        one, other = getattr(whole, name), getattr(parts, name)
        assert (one is None and other is None) or np.array_equal(one, other)
