"""GPTVQ in one dimension: GPTQ, with a codebook for every block of weights in place of a uniform grid (arXiv:2402.15319).

    W  (out, in)   weight           H  (in, in)   X^T X / tokens, damped          U  upper triangular, H^-1 = U^T U
    s  (out,)      row_scale        c  centroids of a block of `group_rows` x `group_cols` weights, whole numbers in -64..63

Column by column: w_q goes to s times the nearest centroid of its block, and the columns to the right make up for the error, as
in gptq.py, whose factor of H is used here. When a column block begins, its codebooks are fitted (kmeans.py) to the weights as
corrected so far; a run of lazy updates ends where a block begins, so that it sees all of them.

With the codes chosen, the codebooks are fitted again to the true loss, by codebook_update.py, and then the codes again to the
codebooks with error feedback, a row keeping its old codes where the new ones lose more. `rounds` of both never raise

    tr((W - Q) H (W - Q)^T)

as stored, with the H that was given, not damped. `act_order` fits all codebooks to the original weights and rounds the
columns with the largest inputs first.

Gives up: row scales are fixed from the original weights; a centroid beyond 63 of them, after correction, is clamped.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.formats.qtensor import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.clustering import nearest_codes
from rwkvquant.quantizers.codebook_update import row_losses, update_codebooks
from rwkvquant.quantizers.gptq import InverseFactor, factorise
from rwkvquant.quantizers.kmeans import codebook_tensor, expand_importance, find_row_scale, fit_codebooks

WEIGHTINGS = ("none", "hessian")


def gptvq(
    W: Tensor | NDArray[np.floating],
    H: Tensor | NDArray[np.floating],
    *,
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    damping: float = 0.05,
    act_order: bool = False,
    weighting: str = "none",
    rounds: int = 0,
) -> CodebookTensor:
    """W (out, in) and H (in, in) -> codes and codebooks. Computed in the type of W: float32, or float64.

    weighting "hessian" fits codebooks with the diagonal of H as weights; rounds, of updating codebooks and choosing codes again.
    """
    W = torch.as_tensor(W)
    H = torch.as_tensor(H).to(W)
    factor = factorise(H, damping=damping, act_order=act_order)
    tensor = gptvq_with(factor, W, bits, group_rows, group_cols, weighting=weighting, static_codebooks=act_order)
    return refine(factor, W, H, tensor, rounds)


def gptvq_with(
    factor: InverseFactor,
    W: Tensor,
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    *,
    weighting: str = "none",
    static_codebooks: bool = False,
) -> CodebookTensor:
    """GPTVQ on W (out, in) with a factor made before. Columns out of order need static codebooks."""
    assert weighting in WEIGHTINGS, weighting
    rows, cols = W.shape
    in_order = factor.order.tolist() == list(range(cols))
    assert static_codebooks or in_order, "columns out of order need static codebooks"
    importance = expand_importance(factor.diagonal if weighting == "hessian" else None, W)
    row_scale = find_row_scale(W, bits, group_rows, group_cols, importance)
    blocks = (-(-rows // group_rows), -(-cols // group_cols), 2**bits)
    if static_codebooks:
        centroids = fit_codebooks(W, row_scale, bits, group_rows, group_cols, importance).view(blocks)
        codes = feedback_codes(factor, W, centroids, row_scale, group_rows, group_cols)
        return codebook_tensor(codes, centroids, row_scale, bits, group_rows, group_cols)

    centroids = torch.empty(blocks, dtype=W.dtype, device=W.device)
    codes = torch.empty(rows, cols, dtype=torch.uint8, device=W.device)
    W = W.clone()  # corrected in place
    for start in range(0, cols, group_cols):
        columns = slice(start, min(start + group_cols, cols))
        of_columns = None if importance is None else importance[:, columns]
        fitted = fit_codebooks(W[:, columns], row_scale, bits, group_rows, group_cols, of_columns)
        centroids[:, start // group_cols] = fitted
        _round_columns(factor, W, codes, columns, centroids, row_scale, group_rows, group_cols)
    return codebook_tensor(codes, centroids, row_scale, bits, group_rows, group_cols)


def refine(factor: InverseFactor, W: Tensor, H: Tensor, tensor: CodebookTensor, rounds: int) -> CodebookTensor:
    """`rounds` times: codebooks fitted to the loss under H (in, in), then codes chosen again. The loss never rises, as stored."""
    for _ in range(rounds):
        tensor = reassign(factor, W, H, update_codebooks(W, H, tensor))
    return tensor


def reassign(factor: InverseFactor, W: Tensor, H: Tensor, tensor: CodebookTensor) -> CodebookTensor:
    """New codes for given codebooks, with error feedback; a row where they lose more than the old ones keeps the old ones."""
    centroids = torch.from_numpy(tensor.codebooks).to(W) - CENTROID_ZERO
    row_scale = torch.from_numpy(tensor.row_scale).to(W)[:, None]
    codes = feedback_codes(factor, W, centroids, row_scale, tensor.group_rows, tensor.group_cols)
    new = codebook_tensor(codes, centroids, row_scale, tensor.bits, tensor.group_rows, tensor.group_cols)
    better = (row_losses(W, new, H) < row_losses(W, tensor, H)).cpu().numpy()
    kept = np.where(better[:, None], new.codes, tensor.codes)
    return CodebookTensor(kept, tensor.bits, tensor.codebooks, tensor.row_scale, tensor.group_rows, tensor.group_cols)


def feedback_codes(
    factor: InverseFactor, W: Tensor, centroids: Tensor, row_scale: Tensor, group_rows: int, group_cols: int, block_size: int = 128
) -> Tensor:
    """Codes (rows, cols) for W with all codebooks given, centroids (row blocks, column blocks, 2**bits) ascending."""
    codes = torch.empty(W.shape, dtype=torch.uint8, device=W.device)
    W = W[:, factor.order]  # a copy, corrected in place
    for start in range(0, W.shape[1], block_size):
        columns = slice(start, min(start + block_size, W.shape[1]))
        _round_columns(factor, W, codes, columns, centroids, row_scale, group_rows, group_cols)
    return codes


def _round_columns(
    factor: InverseFactor,
    W: Tensor,
    codes: Tensor,
    columns: slice,
    centroids: Tensor,
    row_scale: Tensor,
    group_rows: int,
    group_cols: int,
) -> None:
    """Round a run of columns of W, which stand in the order of rounding; correct all behind them; write codes in the original order."""
    U, start, stop = factor.U, columns.start, columns.stop
    block = W[:, columns].T.contiguous()  # (columns, rows)
    errors = torch.empty_like(block)
    scale = row_scale[:, 0]
    for i, q in enumerate(factor.order[columns].tolist()):
        table = centroids[:, q // group_cols].repeat_interleave(group_rows, 0)[: len(W)]  # (rows, 2**bits)
        code = nearest_codes((block[i] / scale)[:, None], table)
        codes[:, q] = code[:, 0]
        row = U[start + i]
        errors[i] = (block[i] - scale * table.gather(1, code.long())[:, 0]) / row[start + i]
        block[i + 1 :].addr_(row[start + i + 1 : stop], errors[i], alpha=-1)
    W[:, stop:].addmm_(errors.T, U[start:stop, stop:], alpha=-1)
