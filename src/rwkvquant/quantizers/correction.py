"""What a product that writes to the residual stream should aim at, so that it makes up for errors made before it.

    x, h    (tokens, C), (tokens, in)   the residual stream before a block and a product's input, in the quantised model
    x', h'                              the same in the full-precision model
    W       (out, in)                   the weight          H = h^T h / tokens

The block should leave x' + h' W^T behind where it would leave x + h W^T. Least squares, damped towards W, gives the target

    W* = W + strength ((x' - x)^T h + W (h' - h)^T h) / tokens  (H + damping mean(diag H))^-1

and the quantiser then minimises tr((W* - Q) H (W* - Q)^T). Without the first term this is the target of GPTAQ (arXiv:2504.02692) and
Qronos (arXiv:2505.11695): a product's own output. Taken in full for every product, it makes RWKV *worse* (KL +73 % on rwkv7-8m at 3 bits):
h holds noise that x' does not, so that a regression shrinks its weights (regression dilution), and all products shrink together.
Half of it, in the two products of a block that write to the residual stream, gains (docs/methods/selection.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.05


class CrossStatistics:
    """Running sums of (x' - x)^T h and (h' - h)^T h, in float64."""

    def __init__(self, width: int, inputs: int, device: torch.device | str = "cpu") -> None:
        self.tokens = 0
        self._residual = torch.zeros(width, inputs, dtype=torch.float64, device=device)
        self._inputs = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        """x' - x (..., width), h' - h and h (..., inputs) of some more tokens."""
        missing_x, missing_h, h = (part.reshape(-1, part.shape[-1]).float() for part in (missing_x, missing_h, h))
        self._residual += missing_x.T @ h
        self._inputs += missing_h.T @ h
        self.tokens += len(h)

    @property
    def residual(self) -> Tensor:
        """(width, inputs) float64."""
        return self._residual / self.tokens

    @property
    def inputs(self) -> Tensor:
        """(inputs, inputs) float64."""
        return self._inputs / self.tokens


def corrected(W: Tensor, H: Tensor, cross: CrossStatistics, strength: float) -> Tensor:
    """W (out, in), H (in, in) float64 -> W* in the type of W."""
    wanted = cross.residual + W.double() @ cross.inputs
    damped = H + DAMPING * float(H.diagonal().mean() or 1.0) * torch.eye(len(H), dtype=H.dtype, device=H.device)
    return (W.double() + strength * torch.linalg.solve(damped, wanted.T).T).to(W.dtype)
