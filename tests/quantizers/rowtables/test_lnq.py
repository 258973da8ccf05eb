"""LNQ against its definition: least squares for tables, the best entry for every code in turn, and a loss that never rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.codecs import RowTablesConfig
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.rowtables import lnq as module
from rwkvquant.quantizers.rowtables.kmeans import kmeans_rows
from rwkvquant.quantizers.rowtables.lnq import best_tables, descend, lnq
from rwkvquant.quantizers.shared.clustering import clustering_cost, exact_kmeans
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import row_losses
from rwkvquant.quantizers.shared.residual import Residual
from tests.quantizers.examples import matrix_and_hessian

Array = NDArray[np.float64]


def example(seed: int, rows: int = 5, cols: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


def losses(W: torch.Tensor, Q: Array, H: torch.Tensor) -> Array:
    return row_losses(W, Q, H).numpy()


@pytest.mark.parametrize("seed", range(3))
def test_tables_are_the_least_squares_answer_for_their_codes(seed: int) -> None:
    W, H = example(seed)
    codes = torch.from_numpy(np.random.default_rng(seed).integers(0, 7, W.shape))  # entry 7 is not used
    start = torch.randn(len(W), 8, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    values = best_tables(W, H, codes, start)
    root = np.linalg.cholesky(H.numpy()).T  # H = root^T root
    for r in range(len(W)):
        P = np.eye(8)[codes[r].numpy()]
        expected = np.linalg.lstsq(root @ P[:, :7], root @ W[r].numpy(), rcond=None)[0]
        np.testing.assert_allclose(values[r, :7], expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(values[:, 7], start[:, 7])  # what nothing uses stays


@pytest.mark.parametrize("seed", range(3))
def test_a_pass_takes_the_best_entry_for_every_column_in_turn(seed: int) -> None:
    W, H = example(seed)
    random = np.random.default_rng(seed)
    values, codes = np.sort(random.standard_normal((len(W), 4)), 1), random.integers(0, 4, W.shape)
    expected = codes.copy()
    for r in range(len(W)):
        for j in range(W.shape[1]):
            tried = []
            for code in range(4):
                expected[r, j] = code
                e = W[r].numpy() - values[r][expected[r]]
                tried.append(e @ H.numpy() @ e)
            expected[r, j] = int(np.argmin(tried))
    result, tables = torch.from_numpy(codes), torch.from_numpy(values)
    descend(Residual(W, H, tables.gather(1, result)), result, tables, passes=1)
    np.testing.assert_array_equal(result, expected)


def test_no_step_raises_the_loss_of_any_row_as_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    W, H = example(0, 12, 70)
    before = losses(W, kmeans_rows(W, 3, H.diagonal()).decode(), H)
    start = before.sum()
    for rounds in range(1, 5):
        after = losses(W, lnq(W, H, 3, rounds).decode(), H)
        assert (after <= before * (1 + 1e-9)).all()
        before = after
    assert before.sum() < 0.5 * start  # k-means knows the diagonal only


def test_the_start_is_exact_k_means_of_every_row() -> None:
    W, H = example(1, 6, 64)
    p = H.diagonal().expand(W.shape)
    exact = exact_kmeans(W, p, 8, most=64)
    least = clustering_cost(W, p, exact.sort(dim=1).values)
    draws = torch.Generator().manual_seed(0)
    for size in (0.01, 0.05, 0.2) * 20:
        other = exact + size * torch.randn(exact.shape, generator=draws, dtype=exact.dtype)
        assert (clustering_cost(W, p, other.sort(dim=1).values) >= least * (1 - 1e-9)).all()
    q = kmeans_rows(W, 3, H.diagonal())
    scale = q.row_scale.astype(np.float64)[:, None]
    stored = torch.from_numpy(scale * q.tables)
    assert ((stored - exact).abs().numpy() <= 0.5001 * scale).all()  # whole numbers of 8 bits
    cost = clustering_cost(W, p, stored.sort(dim=1).values)
    np.testing.assert_allclose((p * (W - torch.from_numpy(q.decode())).square()).sum(1), cost, rtol=1e-3)


def test_groups_of_rows_are_fitted_to_their_own_second_moments() -> None:
    W, H = example(2, 7, 40)
    _, other = example(3, 7, 40)
    setting, options = RowTablesConfig(2), QuantizerOptions()
    of_rows = Hessian(H, W.dtype).for_matrix(torch.stack([H, other]))
    result = quantizer_for("lnq", setting)(W, of_rows, setting, options).decode()
    np.testing.assert_array_equal(result[:4], lnq(W[:4], H, 2).decode())  # 7 rows in two groups: 4 and 3
    np.testing.assert_array_equal(result[4:], lnq(W[4:], other, 2).decode())
    plain = quantizer_for("lnq", setting)(W, Hessian(H, W.dtype), setting, options).decode()
    np.testing.assert_array_equal(plain, lnq(W, H, 2).decode())


def test_dead_columns_few_columns_and_equal_weights_do_no_harm() -> None:
    W, H = (part[:, :5].clone() for part in example(4, 6))  # fewer columns than entries
    H = H[:5]
    W[1] = 0
    W[2] = 3
    H[2] = H[:, 2] = 0
    q = lnq(W, H, 4)
    assert np.isfinite(q.decode()).all() and losses(W, q.decode(), H).max() < 0.01  # the rounding to 8 bits
    assert (q.decode()[1] == 0).all()
    assert module.ROUNDS == 3 and module.PASSES == 4  # as docs/methods/lnq.md says
