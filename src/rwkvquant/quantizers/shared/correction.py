"""What a product that writes to the residual stream should aim at, so that it makes up for errors made before it.

    x, h    (tokens, C), (tokens, in)   the residual stream before a block and a product's input, in the quantised model
    x', h'                              the same in the full-precision model
    W       (out, in)                   the weight          H = h^T h / tokens

The block should leave x' + h' W^T behind where it would leave x + h W^T. Least squares, damped towards W as the quantiser's H is (a small
damping lets W* run far), gives the target

    W* = W + strength ((x' - x)^T h + W (h' - h)^T h) / tokens  (H + damping mean(diag H))^-1

and the quantiser then minimises tr((W* - Q) H (W* - Q)^T). Without the first term this is the target of GPTAQ (arXiv:2504.02692) and
Qronos (arXiv:2505.11695): a product's own output. Taken in full for every product, it makes RWKV *worse* (KL +73 % on rwkv7-8m at 3 bits):
h holds noise that x' does not, so that a regression shrinks its weights (regression dilution), and all products shrink together.
Half of it, in the two products of a block that write to the residual stream, gains (docs/methods/selection.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.uniform.gptq import InverseFactor


class CrossStatistics:
    """Running sums of (x' - x + (h' - h) W^T)^T h, in float64: what the product with W should have put into the residual stream."""

    def __init__(self, W: Tensor) -> None:
        self.W, self.tokens = W, 0
        self._sum = torch.zeros(W.shape, dtype=torch.float64, device=W.device)

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        """x' - x (..., out), h' - h and h (..., in) of some more tokens."""
        missing_x, missing_h, h = (part.reshape(-1, part.shape[-1]).to(self.W.dtype) for part in (missing_x, missing_h, h))
        missing = torch.addmm(missing_x, missing_h, self.W.T)
        self._sum += missing.T @ h
        self.tokens += len(h)

    @property
    def wanted(self) -> Tensor:
        """(out, in) float64."""
        return self._sum / self.tokens


def corrected(factor: InverseFactor, cross: CrossStatistics, strength: float) -> Tensor:
    """The factor of H (in, in), damped, as the quantiser has it -> W* in the type of W, in which it is worked out."""
    W, target = cross.W, cross.W.clone()
    change = (cross.wanted.to(W)[:, factor.order] @ factor.U.T) @ factor.U  # H^-1 = U^T U, in the factor's order
    target[:, factor.order] += strength * change
    return target
