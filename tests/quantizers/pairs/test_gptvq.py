"""Two-dimensional codebooks: the walk is the definition, code for code; and it loses less than other methods."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import GridConfig, PairCodebookTensor
from rwkvquant.quantizers.pairs import update
from rwkvquant.quantizers.pairs.gptvq import (
    factorize_pairs,
    fit_pair_tables,
    gptvq_pairs,
    gptvq_pairs_with,
    pair_codebooks,
    reassign_pairs,
)
from rwkvquant.quantizers.pairs.table_map import table_map
from rwkvquant.quantizers.pairs.update import update_pairs
from rwkvquant.quantizers.pairs.walk import feedback_pairs
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from rwkvquant.quantizers.shared.residual import Residual
from rwkvquant.quantizers.uniform.gptq import gptq
from tests.quantizers.examples import matrix_and_hessian
from tests.quantizers.pairs.definition import feedback_pairs_by_definition, nearest_pair


def problem(seed: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


@pytest.mark.parametrize("block_size", [2, 32, 128], ids=lambda b: f"block{b}")
@pytest.mark.parametrize("act_order", [False, True], ids=["in_order", "act_order"])
@pytest.mark.parametrize(("rows", "cols", "group_rows"), [(5, 40, 16), (18, 37, 16), (4, 1, 16), (6, 70, 3)], ids=str)
def test_the_walk_is_the_definition(rows: int, cols: int, group_rows: int, act_order: bool, block_size: int) -> None:
    W, H = problem(1, rows, max(cols, 6))
    W, H = W[:, :cols], H[:cols, :cols]
    tables, scale = fit_pair_tables(W, 4, group_rows, H.diagonal())
    expected = feedback_pairs_by_definition(W.numpy(), H.numpy(), tables.numpy(), scale[:, 0].numpy(), group_rows, 0.02, act_order)
    factor = factorize_pairs(H, damping=0.02, act_order=act_order)
    result = feedback_pairs(factor, W, tables, scale, group_rows, block_size)
    np.testing.assert_array_equal(result.numpy(), expected)


@pytest.mark.parametrize("cols", [8, 9])
def test_without_feedback_every_pair_is_the_nearest(cols: int) -> None:
    W, _ = problem(2, 20, cols)
    importance = np.random.default_rng(0).lognormal(0, 1, cols)
    q = pair_codebooks(W, 4, 16, importance)
    assert q.shape == (20, cols) and q.codebooks.shape == (2, 16, 2) and q.decode().shape == (20, cols)
    for r in range(20):
        for pair in range(q.codes.shape[1]):
            columns = slice(2 * pair, min(2 * pair + 2, cols))
            table = (q.codebooks[r // 16].astype(float) - 64)[:, : columns.stop - columns.start] * float(q.row_scale[r])
            best = nearest_pair(W[r, columns].numpy(), np.diag(importance[columns]), table)
            np.testing.assert_allclose(table[q.codes[r, pair]], table[best], rtol=1e-6)


def test_uncorrelated_inputs_leave_k_means() -> None:
    W, _ = problem(3, 16, 30)
    np.testing.assert_array_equal(gptvq_pairs(W, np.eye(30), bits=4, rounds=0).decode(), pair_codebooks(W, 4, 16).decode())


def test_weights_that_a_table_can_represent_are_exact() -> None:
    """16 different pairs of whole numbers that reach -64, in a different order in every row: nothing is lost."""
    rng = np.random.default_rng(0)
    table = np.concatenate([[[-64, -64]], rng.permutation(120)[:30].reshape(15, 2) - 60])
    W = np.stack([table[rng.permutation(48) % 16] for _ in range(20)]).reshape(20, 96) * 0.3
    assert hessian_error(W, gptvq_pairs(W, np.eye(96), bits=4).decode(), np.eye(96)) < 1e-6  # row_scale has 11 bits


@pytest.mark.parametrize("seed", range(3))
def test_the_m_step_loses_in_no_row_group_and_comes_near_the_least(seed: int) -> None:
    W, H = problem(seed, 20, 24)
    q = gptvq_pairs(W, H, bits=4, rounds=0)
    updated = update_pairs(W, H, q)
    np.testing.assert_array_equal(updated.codes, q.codes)
    L = torch.linalg.cholesky(H)
    for rows in (slice(0, 16), slice(16, 20)):
        before, after = (float(row_losses(W[rows], part.decode()[rows], H).sum()) for part in (q, updated))
        assert after <= before
        height = rows.stop - rows.start
        A = torch.zeros(height, 24, 32, dtype=W.dtype)  # Q of the group = A @ its table
        for i in range(height):
            for j in range(24):
                A[i, j, 2 * int(q.codes[rows.start + i, j // 2]) + j % 2] = float(q.row_scale[rows.start + i])
        design, aim = (L.T @ A).flatten(0, 1).numpy(), (W[rows] @ L).flatten().numpy()
        least = float(np.square(design @ np.linalg.lstsq(design, aim, rcond=None)[0] - aim).sum())
        assert least <= after and (height < 16 or before - after > 0.6 * (before - least))


def test_the_m_step_loses_nowhere_where_rounding_hurts_most() -> None:
    """Inputs with three directions and little else: whole tables are then far from the real ones in loss."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 70)) + 0.01 * rng.standard_normal((400, 70))
    W, H = torch.from_numpy(rng.standard_normal((64, 70))), torch.from_numpy(X.T @ X / 400)
    q = gptvq_pairs(W, H, bits=4, group_rows=4, damping=0.001, rounds=2)
    for _ in range(3):
        updated = update_pairs(W, H, q)
        before, after = (row_losses(W, part.decode(), H).view(-1, 4).sum(1) for part in (q, updated))
        assert bool((after <= before).all())
        q = updated


def test_some_rows_stand_for_all_rows_of_wide_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """150 rows and three tables, of which the last has 22 rows. With 48 pairs for each entry, 35 of 64 rows and all of the last table."""
    W, H = problem(10, 150, 44)
    q = gptvq_pairs(W, H, bits=4, group_rows=64, rounds=0)
    all_rows, narrow = table_map(q, W), update._some_rows(q, W)
    assert torch.equal(narrow.index, all_rows.index) and torch.equal(narrow.scale, all_rows.scale)
    losses = [float(row_losses(W, each.decode(), H).sum()) for each in (q, update_pairs(W, H, q))]
    monkeypatch.setattr(update, "SAMPLE", 48)
    some = update._some_rows(q, W)
    assert len(some.index) == 92 and torch.equal(some.index[:4], all_rows.index[[0, 1, 3, 5]])
    ones = torch.ones(some.shape, dtype=W.dtype)
    assert float(some.weights(H.diagonal()).sum() / all_rows.weights(H.diagonal()).sum()) == pytest.approx(1, abs=0.1)
    assert some.spread(ones).shape == (92, 44)
    updated = update_pairs(W, H, q)
    after = row_losses(W, updated.decode(), H)
    assert losses[1] <= float(after.sum()) < losses[0] - 0.6 * (losses[0] - losses[1])


def test_the_residual_of_a_tensor_follows_its_rounds() -> None:
    W, H = problem(11, 40, 33)
    q = gptvq_pairs(W, H, bits=4, rounds=0)
    residual = Residual(W, H, q.decode())
    for step in (update_pairs, lambda *given: reassign_pairs(factorize_pairs(H, damping=0.05, act_order=True), *given)):
        q = step(W, H, q, residual)
        fresh = Residual(W, H, q.decode())
        torch.testing.assert_close(residual.E, fresh.E, rtol=0, atol=1e-6)  # what is decoded is float32
        torch.testing.assert_close(residual.losses(), fresh.losses(), rtol=1e-5, atol=0)


def test_choosing_codes_again_never_loses_in_any_row() -> None:
    W, H = problem(5, 20, 30)
    q = gptvq_pairs(W, H, bits=4, damping=0.001, rounds=1)
    factor = factorize_pairs(H, damping=1.0, act_order=False)  # feedback for a different loss, so that some rows become worse
    again = reassign_pairs(factor, W, H, q)
    assert bool((row_losses(W, again.decode(), H) <= row_losses(W, q.decode(), H)).all())


def test_feedback_and_every_round_gain() -> None:
    W, H = matrix_and_hessian(4, 64, 128, tokens=2000)
    loss = [hessian_error(W, gptvq_pairs(W, H, group_rows=64, rounds=rounds).decode(), H) for rounds in (0, 1, 2)]
    assert loss[2] < loss[1] < loss[0] < 0.8 * hessian_error(W, pair_codebooks(W, 6, 64, H.diagonal().copy()).decode(), H)
    assert loss[2] < hessian_error(W, gptq(W, H, GridConfig(3, 64), clip_search="hessian").decode(), H)  # at fewer bits


def test_a_group_may_have_more_rows_than_the_matrix() -> None:
    W, H = problem(6, 10, 24)
    wide, exact = (gptvq_pairs(W, H, bits=4, group_rows=group_rows) for group_rows in (4096, 10))
    np.testing.assert_array_equal(wide.decode(), exact.decode())
    assert wide.codebooks.shape == (1, 16, 2)


def test_dead_columns_singular_hessians_and_zeros_give_finite_weights() -> None:
    W, H = matrix_and_hessian(7, 6, 24, tokens=10)
    H[3], H[:, 3], H[:, 8:10], H[8:10] = 0, 0, 0, 0
    for matrix in (W, 0 * W):
        q = gptvq_pairs(matrix, H, bits=5, damping=0.0)
        assert np.isfinite(q.decode()).all()
    assert isinstance(q, PairCodebookTensor) and not q.decode().any()
    assert np.isfinite(gptvq_pairs(W, 0 * H, bits=5).decode()).all()


def test_inputs_are_not_changed_and_a_second_call_gives_the_same() -> None:
    W, H = problem(8, 16, 24)
    W_before, H_before = W.clone(), H.clone()
    factor = factorize_pairs(H, damping=0.05, act_order=True)
    first, second = (gptvq_pairs_with(factor, W, H, 4) for _ in range(2))
    assert torch.equal(W, W_before) and torch.equal(H, H_before)
    np.testing.assert_array_equal(first.decode(), second.decode())


def test_float32_is_nearly_as_good() -> None:
    W, H = matrix_and_hessian(9, 16, 96)
    wide = hessian_error(W, gptvq_pairs(W, H, bits=5).decode(), H)
    assert hessian_error(W, gptvq_pairs(W.astype(np.float32), H, bits=5).decode(), H) < 1.02 * wide
