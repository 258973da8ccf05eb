"""GPTVQ in one dimension: GPTQ, with a codebook for every block of weights in place of a uniform grid (arXiv:2402.15319).

    W  (out, in)   weight           H  (in, in)   X^T X / tokens, damped          U  upper triangular, H^-1 = U^T U
    s  (out,)      row_scale        c  centroids of a block of `group_rows` x `group_cols` weights, whole numbers in -64..63

Column by column: w_q goes to s times the nearest centroid of its block, and the columns to the right make up for the error
(walk.py). When a column block begins, its codebooks are fitted (kmeans.py) to the weights as corrected so far;
with `act_order` all codebooks are fitted to the original weights, and the columns with the largest inputs come first.
A `rank` compresses the codebooks (compressed.py); then the codes are chosen again for the compressed ones.

Rounds follow. Each fits the codebooks to the true loss (update.py or compressed_update.py), and then chooses codes again for
the codebooks. The first round does that with error feedback, and a row keeps its old codes where the new ones lose more; later
rounds use coordinate descent (descent.py). Rounds never raise

    tr((W - Q) H (W - Q)^T)

as stored, with H as given, not damped. paper.py is the method as RWKVQuant ran it.

Gives up: row scales are fixed from the original weights; after correction, a centroid above 63 times the scale is clamped.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CENTROID_ZERO, CodebookTensor
from rwkvquant.quantizers.codebook.compressed import compress_with
from rwkvquant.quantizers.codebook.compressed_update import update_factors
from rwkvquant.quantizers.codebook.descent import STEPS
from rwkvquant.quantizers.codebook.kmeans import codebook_tensor, expand_importance, find_row_scale, fit_codebooks
from rwkvquant.quantizers.codebook.update import update_codebooks
from rwkvquant.quantizers.codebook.walk import feedback_codes, fit_and_feed_back
from rwkvquant.quantizers.shared.descent import descend
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.shared.residual import Residual

WEIGHTINGS = ("none", "hessian")
ROUNDS = 3  # a fourth gains 0.4 to 0.7 %
PASSES = 3  # of descent in a round; a fourth gains 0.3 to 0.4 %


def gptvq(
    W: Tensor | NDArray[np.floating],
    H: Tensor | NDArray[np.floating],
    *,
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    rank: int = 0,
    damping: float = 0.05,
    act_order: bool = True,
    weighting: str = "hessian",
    rounds: int = ROUNDS,
) -> CodebookTensor:
    """W (out, in) and H (in, in) -> codes and codebooks. Computed in the type of W: float32, or float64.

    weighting "hessian" fits codebooks with the diagonal of H as weights, "none" without weights. rounds: how often codebooks are
    updated and codes are chosen again. rank 0 does not compress the codebooks.
    """
    W = torch.as_tensor(W)
    H = torch.as_tensor(H).to(W)
    factor = factorize(H, damping=damping, act_order=act_order)
    return gptvq_with(factor, W, H, bits, group_rows, group_cols, rank=rank, weighting=weighting, rounds=rounds)


def gptvq_with(
    factor: InverseFactor,
    W: Tensor,
    H: Tensor,
    bits: int = 3,
    group_rows: int = 2,
    group_cols: int = 32,
    *,
    rank: int = 0,
    weighting: str = "hessian",
    rounds: int = ROUNDS,
) -> CodebookTensor:
    """gptvq with a given factor of H."""
    assert weighting in WEIGHTINGS, weighting
    importance = expand_importance(factor.diagonal if weighting == "hessian" else None, W)
    row_scale = find_row_scale(W, bits, group_rows, group_cols, importance)

    def fit(corrected: Tensor, columns: slice) -> Tensor:
        of_columns = None if importance is None else importance[:, columns]
        return fit_codebooks(corrected, row_scale, bits, group_rows, group_cols, of_columns)

    codes, centroids = fit_and_feed_back(factor, W, row_scale, group_rows, group_cols, fit)
    tensor = codebook_tensor(codes, centroids, row_scale, bits, group_rows, group_cols)
    if rank:
        tensor = compress_with(factor, W, tensor, rank, weighting)
    return refine(factor, W, H, tensor, rounds)


def refine(factor: InverseFactor, W: Tensor, H: Tensor, tensor: CodebookTensor, rounds: int) -> CodebookTensor:
    """`rounds` times: fit codebooks to the loss under H (in, in), then choose codes again. The loss of what is stored never rises."""
    if rounds:
        residual = Residual(W, H, tensor.decode())
        for i in range(rounds):
            update = update_codebooks if tensor.factors is None else update_factors
            tensor = update(W, H, tensor, residual)
            tensor = descend(STEPS, W, H, tensor, PASSES, residual) if i else reassign(factor, W, H, tensor, residual)
    return tensor


def reassign(factor: InverseFactor, W: Tensor, H: Tensor, tensor: CodebookTensor, residual: Residual | None = None) -> CodebookTensor:
    """New codes for given codebooks, with error feedback; a row keeps its old codes where the new ones lose more.

    `residual` is that of the tensor, and is updated.
    """
    residual = residual or Residual(W, H, tensor.decode())
    before, kept = residual.losses(), (residual.E, residual.G)
    centroids = torch.from_numpy(tensor.codebooks).to(W) - CENTROID_ZERO
    row_scale = torch.from_numpy(tensor.row_scale).to(W)[:, None]
    codes = feedback_codes(factor, W, centroids, row_scale, tensor.group_rows, tensor.group_cols)
    new = replace(tensor, codes=codes.cpu().numpy())
    residual.reset(new.decode())
    better = residual.gained(before, residual.losses())
    residual.restore(~better, kept)
    return replace(tensor, codes=np.where(better.cpu().numpy()[:, None], new.codes, tensor.codes))
