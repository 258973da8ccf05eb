"""GPTVQ is the column-by-column definition, code for code; and it loses less than other methods."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.quantizers.codebook.gptvq import gptvq, gptvq_with, reassign, refine
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.walk import feedback_codes
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from rwkvquant.quantizers.uniform.gptq import gptq
from tests.quantizers.codebook.definition import gptvq_by_definition
from tests.quantizers.examples import matrix_and_hessian


@pytest.mark.parametrize("weighting", ["none", "hessian"])
@pytest.mark.parametrize(
    ("shape", "block"), [((4, 40), (3, 2, 32)), ((3, 40), (2, 2, 16)), ((5, 37), (2, 4, 8)), ((1, 30), (2, 2, 8))], ids=str
)
def test_gptvq_is_the_definition(shape: tuple[int, int], block: tuple[int, int, int], weighting: str) -> None:
    W, H = matrix_and_hessian(1, *shape)
    bits, group_rows, group_cols = block
    importance = H.diagonal() if weighting == "hessian" else None
    expected = gptvq_by_definition(W, H, bits, group_rows, group_cols, damping=0.01, importance=importance)
    result = gptvq(
        W, H, bits=bits, group_rows=group_rows, group_cols=group_cols, damping=0.01, act_order=False, weighting=weighting, rounds=0
    )
    np.testing.assert_array_equal(result.row_scale, expected.row_scale)
    np.testing.assert_array_equal(result.codebooks, expected.codebooks)
    np.testing.assert_array_equal(result.codes, expected.codes)


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_feedback_with_given_codebooks_does_not_depend_on_the_blocks(act_order: bool, block_size: int) -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(2, 4, 70))
    factor = factorize(H, damping=0.01, act_order=act_order)
    q = gptvq_with(factor, W, H, rounds=0)
    centroids, row_scale = torch.from_numpy(q.codebooks).double() - 64, torch.from_numpy(q.row_scale).double()[:, None]
    codes = feedback_codes(factor, W, centroids, row_scale, 2, 32, block_size=block_size)
    np.testing.assert_array_equal(codes.numpy(), q.codes)


def test_centroids_may_be_in_any_order() -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(2, 4, 70))
    factor = factorize(H, damping=0.01, act_order=True)
    q = gptvq_with(factor, W, H, rounds=0)
    names = np.random.default_rng(0).permuted(np.tile(np.arange(8), (2, 3, 1)), axis=-1)
    mixed = np.take_along_axis(q.codebooks, names, -1)
    centroids, row_scale = torch.from_numpy(mixed).double() - 64, torch.from_numpy(q.row_scale).double()[:, None]
    codes = feedback_codes(factor, W, centroids, row_scale, 2, 32).numpy()
    np.testing.assert_array_equal(replace(q, codes=codes, codebooks=mixed).decode(), q.decode())


def test_uncorrelated_inputs_leave_k_means() -> None:
    W, _ = matrix_and_hessian(3, 6, 70)
    np.testing.assert_array_equal(gptvq(W, np.eye(70), rounds=0).decode(), kmeans_codebooks(W).decode())


@pytest.mark.parametrize("act_order", [False, True])
def test_feedback_and_every_round_gain(act_order: bool) -> None:
    W, H = matrix_and_hessian(4, 16, 128, tokens=2000)
    loss = [hessian_error(W, gptvq(W, H, act_order=act_order, weighting="hessian", rounds=rounds).decode(), H) for rounds in (0, 1, 2)]
    assert loss[2] < loss[1] < loss[0]
    assert loss[0] < 0.9 * hessian_error(W, kmeans_codebooks(W, importance=H.diagonal().copy()).decode(), H)
    assert loss[0] < hessian_error(W, gptq(W, H, GridConfig(3, 64), act_order=act_order, clip_search="hessian").decode(), H)


def test_reassigning_never_loses_in_any_row() -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(5, 9, 70))
    factor = factorize(H, damping=1.0, act_order=False)  # feedback for a different loss, so that some rows become worse
    q = gptvq(W, H, damping=0.001, act_order=False, weighting="none", rounds=1)
    before, after = row_losses(W, q.decode(), H), row_losses(W, reassign(factor, W, H, q).decode(), H)
    assert bool((after <= before).all())
    centroids, row_scale = torch.from_numpy(q.codebooks).double() - 64, torch.from_numpy(q.row_scale).double()[:, None]
    assert not np.array_equal(feedback_codes(factor, W, centroids, row_scale, 2, 32).numpy(), q.codes)


def test_dead_columns_and_singular_hessians_give_finite_weights(caplog: pytest.LogCaptureFixture) -> None:
    W, H = matrix_and_hessian(6, 4, 64, tokens=10)
    H[3], H[:, 3] = 0, 0
    with caplog.at_level(logging.WARNING):
        q = gptvq(W, H, damping=0.0, rounds=2)
    assert np.isfinite(q.decode()).all() and "singular" in caplog.text


def test_inputs_are_not_changed() -> None:
    W, H = (torch.from_numpy(a) for a in matrix_and_hessian(7, 4, 64))
    W_before, H_before = W.clone(), H.clone()
    refine(factorize(H, damping=0.01, act_order=False), W, H, gptvq(W, H), 1)
    assert torch.equal(W, W_before) and torch.equal(H, H_before)


def test_float32_is_nearly_as_good() -> None:
    W, H = matrix_and_hessian(8, 8, 96)
    wide = hessian_error(W, gptvq(W, H, rounds=1).decode(), H)
    assert hessian_error(W, gptvq(W.astype(np.float32), H, rounds=1).decode(), H) < 1.02 * wide
