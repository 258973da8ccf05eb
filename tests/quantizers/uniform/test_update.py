"""Scales never lose more, a single group gets the best scale that the file can hold, and rounds of scales and codes only gain."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig, UniformTensor
from rwkvquant.quantizers.shared.loss import row_losses
from rwkvquant.quantizers.uniform.gptq import gptq
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid, update_scales
from tests.quantizers.examples import matrix_and_hessian

GRIDS = [
    GridConfig(bits, group, symmetric, scale_bits)
    for bits, group in ((2, 64), (3, 32))
    for symmetric in (False, True)
    for scale_bits in (8, 16)
]


def problem(seed: int, cols: int = 150) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, 8, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


def losses(W: torch.Tensor, H: torch.Tensor, q: UniformTensor) -> np.ndarray:
    return row_losses(W, q.decode(), H).numpy()


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_no_row_ever_loses_more(grid: GridConfig) -> None:
    for seed in range(3):
        W, H = problem(seed)
        for q in (rtn(W, grid), gptq(W, H, grid)):
            before = losses(W, H, q)
            moved, refined = update_scales(W, H, q), refine_grid(W, H, q)
            assert np.array_equal(moved.codes, q.codes)
            assert (losses(W, H, moved) <= before * (1 + 1e-6)).all()
            assert (losses(W, H, refined) <= losses(W, H, moved) * (1 + 1e-6)).all()
            assert losses(W, H, refined).sum() < 0.97 * before.sum()
            for result in (moved, refined):  # what does not move
                assert (result.zeros is None) == (q.zeros is None) and (q.zeros is None or np.array_equal(result.zeros, q.zeros))
                assert (result.row_scale is None) == (q.row_scale is None)
                assert q.row_scale is None or np.array_equal(result.row_scale, q.row_scale)
                assert q.scale_codes is None or (result.scale_codes is not None and result.scale_codes.min() >= 1)


@pytest.mark.parametrize("symmetric", [False, True])
def test_one_group_gets_the_best_of_all_scale_codes(symmetric: bool) -> None:
    W, H = problem(1, 40)
    q = rtn(W, GridConfig(3, 64, symmetric, 8))
    assert q.scale_codes is not None
    q = replace(q, scale_codes=np.maximum(1, (q.scale_codes * 0.6)).astype(np.uint8))  # as if scales had been chosen badly
    every = np.stack([losses(W, H, replace(q, scale_codes=np.full_like(q.scale_codes, code))) for code in range(1, 256)])
    assert losses(W, H, update_scales(W, H, q)) == pytest.approx(every.min(0), rel=1e-9)


def test_one_group_gets_the_best_float16_scale() -> None:
    W, H = problem(2, 40)
    q = rtn(W, GridConfig(3, 64, False, 16))
    assert q.scales is not None
    q = replace(q, scales=(q.scales * np.float16(0.6)).astype(np.float16))
    result = update_scales(W, H, q)
    assert result.scales is not None and result.scales.dtype == np.float16
    for step in (np.float16(-np.inf), np.float16(np.inf)):  # neither neighbour is better
        beside = replace(q, scales=np.nextafter(result.scales, step))
        assert (losses(W, H, result) <= losses(W, H, beside) * (1 + 1e-9)).all()


def test_dead_columns_and_rows_of_zeros_stay_as_they_are() -> None:
    W, H = problem(3)
    H[:, 32:64] = H[32:64] = 0  # a whole group that no input reaches
    W[2] = 0
    q = gptq(W, H, GridConfig(3, 32))
    result = refine_grid(W, H, q)
    assert np.isfinite(result.decode()).all()
    assert (losses(W, H, result) <= losses(W, H, q) * (1 + 1e-6)).all()
    assert np.array_equal(result.group_scales()[:, 1], q.group_scales()[:, 1])
