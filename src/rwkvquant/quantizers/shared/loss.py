"""The loss that all quantisers are compared by: the squared change of the product's output on the calibration text.

W  (out, in)  weight      Q  (out, in)  what its codes decode to      H  (in, in)  X^T X / tokens

mean over tokens of |x W^T - x Q^T|^2  =  tr((W - Q) H (W - Q)^T)
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK_WEIGHTS = 1 << 24  # in one chunk

Array = Tensor | NDArray[np.floating]


def hessian_error(W: Array, Q: Array, H: Array) -> float:
    """tr((W-Q) H (W-Q)^T) relative to tr(W H W^T): 0 is lossless, 1 is as bad as all zeros. Products in the type of H.

    Where the product's output is always 0 (W H W^T = 0), the result is 0 if the quantised output is 0 too, and infinity
    otherwise.
    """
    loss, energy = hessian_loss(W, Q, H), hessian_loss(W, None, H)
    if energy > 0:
        return loss / energy
    return 0.0 if loss <= 0 else float("inf")


def hessian_loss(W: Array, Q: Array | None, H: Array) -> float:
    """tr((W-Q) H (W-Q)^T), a few rows at a time, products in the type of H and sums in float64; Q None means zeros."""
    W, H = torch.as_tensor(W), torch.as_tensor(H)
    total, some = 0.0, max(1, CHUNK_WEIGHTS // W.shape[1])
    for start in range(0, len(W), some):
        E = W[start : start + some].to(H)
        if Q is not None:
            E = E - torch.as_tensor(Q[start : start + some]).to(H)
        total += float(((E @ H) * E).sum(dtype=torch.float64))
    return total


def row_losses(W: Array, Q: Array, H: Array) -> Tensor:
    """The rows' shares of tr((W-Q) H (W-Q)^T), (rows,), computed in float64 on the device of W."""
    W = torch.as_tensor(W).double()
    E = W - torch.as_tensor(Q).to(W)
    return ((E @ torch.as_tensor(H).to(W)) * E).sum(1)
