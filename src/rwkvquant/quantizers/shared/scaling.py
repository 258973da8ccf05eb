"""AWQ's scale of input channels: found by trying a few on the error of the product's output (arXiv:2306.00978, Eq. 4 and 5).

    W  (out, in)  weights of the products with one input x      H  (in, in)  second moments of x
    a  (in,)      the size of each channel, sqrt(E[x_j^2]) = sqrt(H_jj)          s  (in,)  the scale of each column

    s = a^alpha, divided by sqrt(max s * min s)        alpha = 0, 1/20, .., 19/20                           Eq. (5)
    s* = argmin  tr(E H E^T)      E = W - Q(W diag(s)) diag(1/s)                                            Eq. (4)

The authors take the mean of |x_j|; second moments are what is collected here, and for inputs of one kind of distribution the two are in
proportion. Their error is that of a layer's output on a sample of the text; tr(E H E^T) is the same on all of it. alpha = 0 is no scale,
so on the calibration text the result is never worse than that. All products with one input get one scale, as theirs do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.quantizers.shared.loss import hessian_loss

STEPS = 20
SMALLEST, LARGEST = 2.0**-10, 2.0**10  # of a scale: far from the ends of float16, where steps are relatively large

Round = Callable[[int, Tensor, Tensor], Tensor]  # number of the matrix, W' (out, in), H' (in, in) -> decoded (out, in)


def best_scale(matrices: Sequence[Tensor], H: Tensor, rounded: Round) -> NDArray[np.float16]:
    """W (out, in) of each product with this input, and H (in, in) -> s (in,). `rounded` quantises a scaled matrix and decodes it."""
    size = H.diagonal().clamp(min=0).sqrt().double()
    least, best = float("inf"), np.ones(len(H), np.float16)
    for step in range(STEPS):
        scale = scale_of(size, step / STEPS)
        s = torch.from_numpy(scale).to(H.device)
        working = (H / s.to(H) / s.to(H)[:, None]).to(matrices[0].dtype)
        loss = 0.0
        for number, W in enumerate(matrices):
            loss += hessian_loss(W, rounded(number, W * s.to(W), working) / s.to(W), H.to(W.dtype))
        if loss < least:
            least, best = loss, scale
    return best


def scale_of(size: Tensor, alpha: float) -> NDArray[np.float16]:
    """a (in,) -> s (in,) float16. A channel that is 0 on all of the text gets the scale 1."""
    alive = size > 0
    if alpha == 0 or not alive.any():
        return np.ones(len(size), np.float16)
    s = size[alive].pow(alpha)
    s = (s / (s.max() * s.min()).sqrt()).clamp(SMALLEST, LARGEST)
    scale = torch.ones_like(size)
    scale[alive] = s
    return scale.cpu().numpy().astype(np.float16)
