"""The M-step: the loss as stored never rises, no single centroid can be improved, and the loss is near the least possible."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rwkvquant.codecs import CodebookTensor
from rwkvquant.quantizers.codebook.gptvq import gptvq
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.update import sort_codebooks, update_codebooks
from rwkvquant.quantizers.shared.loss import row_losses
from tests.quantizers.examples import matrix_and_hessian


def block_losses(W: torch.Tensor, q: CodebookTensor, H: torch.Tensor) -> torch.Tensor:
    """The loss of each row block, (row blocks,)."""
    losses = row_losses(W, q.decode(), H)
    return torch.nn.functional.pad(losses, (0, -len(losses) % q.group_rows)).view(-1, q.group_rows).sum(1)


def first_codes(W: torch.Tensor, H: torch.Tensor, damping: float = 0.01) -> CodebookTensor:
    return gptvq(W, H, damping=damping, act_order=False, weighting="none", rounds=0)


def problem(rows: int = 5, cols: int = 70, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, cols)
    return torch.from_numpy(W), torch.from_numpy(H)


def least_real_loss(W: torch.Tensor, H: torch.Tensor, q: CodebookTensor) -> torch.Tensor:
    """The minimum over real centroids, by one least-squares problem for each row block: |L^T (w - s A c)|^2 with H = L L^T."""
    L = torch.linalg.cholesky(H)
    result = []
    for top in range(0, len(W), q.group_rows):
        rows = range(top, min(top + q.group_rows, len(W)))
        design = torch.zeros(len(rows), W.shape[1], q.codebooks[0].size, dtype=W.dtype)
        for i, r in enumerate(rows):
            for j in range(W.shape[1]):
                design[i, j, j // q.group_cols * 2**q.bits + int(q.codes[r, j])] = float(q.row_scale[r])
        A = (L.T @ design).flatten(0, 1).numpy()
        b = (W[list(rows)] @ L).flatten().numpy()
        c = np.linalg.lstsq(A, b, rcond=None)[0]
        result.append(float(np.square(A @ c - b).sum()))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_no_row_block_loses(seed: int, dtype: torch.dtype) -> None:
    W, H = problem(seed=seed)
    W = W.to(dtype)
    for q in (kmeans_codebooks(W), first_codes(W, H)):
        for _ in range(3):
            updated = update_codebooks(W, H, q, whole_sweeps=seed)
            assert bool((block_losses(W, updated, H) <= block_losses(W, q, H)).all())
            assert updated.codebooks.max() <= 127 and (np.diff(updated.codebooks.astype(int), axis=-1) >= 0).all()
            q = updated


def test_no_row_block_loses_where_rounding_hurts_most() -> None:
    """Inputs with three directions and little else: whole centroids are then far from the real ones in loss."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((400, 3)) @ rng.standard_normal((3, 70)) + 0.1 * rng.standard_normal((400, 70))
    W, H = torch.from_numpy(rng.standard_normal((9, 70))), torch.from_numpy(X.T @ X / 400)
    q = first_codes(W, H, damping=0.001)
    for _ in range(3):
        updated = update_codebooks(W, H, q)
        assert bool((block_losses(W, updated, H) <= block_losses(W, q, H)).all())
        q = updated


def test_the_loss_is_near_the_least_of_real_centroids() -> None:
    W, H = problem()
    q = first_codes(W, H)
    start, least = block_losses(W, q, H), least_real_loss(W, H, q)
    after = block_losses(W, update_codebooks(W, H, q, real_sweeps=2, whole_sweeps=2), H)
    assert bool((least <= after).all())
    gained = (start - after) / (start - least)
    assert float(gained.min()) > 0.6, gained  # whole numbers and five sweeps do not reach all of it


def test_no_single_centroid_can_do_better() -> None:
    W, H = problem(3, 40)
    q = update_codebooks(W, H, first_codes(W, H), whole_sweeps=9)
    now = block_losses(W, q, H)
    for index in np.ndindex(q.codebooks.shape):
        for step in (-1, 1):
            tried = q.codebooks.astype(int)
            tried[index] += step
            if 0 <= tried[index] <= 127:
                other = CodebookTensor(q.codes, q.bits, tried.astype(np.uint8), q.row_scale)
                assert float(block_losses(W, other, H)[index[0]]) >= float(now[index[0]]) * (1 - 1e-6)


def test_uncorrelated_inputs_leave_k_means_as_it_is() -> None:
    W, _ = problem()
    q = kmeans_codebooks(W)
    np.testing.assert_array_equal(update_codebooks(W, torch.eye(70, dtype=W.dtype), q).decode(), q.decode())


def test_a_damaged_codebook_is_repaired() -> None:
    W, _ = problem()
    q = kmeans_codebooks(W)
    rng = np.random.default_rng(0)
    damaged = CodebookTensor(
        q.codes, q.bits, np.clip(q.codebooks + rng.integers(-9, 10, q.codebooks.shape), 0, 127).astype(np.uint8), q.row_scale
    )
    mended = update_codebooks(W, torch.eye(70, dtype=W.dtype), damaged)
    np.testing.assert_allclose(block_losses(W, mended, torch.eye(70)), block_losses(W, q, torch.eye(70)), rtol=1e-9)


def test_sorting_codebooks_changes_no_weight() -> None:
    q = kmeans_codebooks(problem()[0])
    mixed = CodebookTensor(q.codes, q.bits, np.random.default_rng(0).integers(0, 128, q.codebooks.shape, np.uint8), q.row_scale)
    sorted_q = sort_codebooks(mixed)
    np.testing.assert_array_equal(sorted_q.decode(), mixed.decode())
    assert (np.diff(sorted_q.codebooks.astype(int), axis=-1) >= 0).all()
