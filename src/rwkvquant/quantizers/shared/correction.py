"""What a product that writes to the residual stream should aim at, so that it makes up for errors made before it.

    x, h    (tokens, C), (tokens, in)   the residual stream before a block and a product's input, in the quantised model
    x', h'                              the same in the full-precision model
    W       (out, in)                   the weight          H = h^T h / tokens

The block should end with x' + h' W^T where it would end with x + h W^T. Least squares gives the target. It is
damped towards W with the damping of the quantiser's H, because W* moves far from W when the damping is small:

    W* = W + strength ((x' - x)^T h + W (h' - h)^T h) / tokens  (H + damping mean(diag H))^-1

where the bracket over tokens is `cross_moment` (calibration/statistics/cross.py adds it up). The quantiser then minimises
tr((W* - Q) H (W* - Q)^T). Without the first term this is the target of GPTAQ (arXiv:2504.02692) and Qronos (arXiv:2505.11695): a
product's own output. Taken in full for every product, it makes RWKV *worse* (KL +73 % on rwkv7-8m at 3 bits):
h has noise that x' does not have, so that a regression shrinks its weights (regression dilution), and all products shrink together.
Half of it helps in the two products of a block that write to the residual stream (docs/methods/selection.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.balance import balance
from rwkvquant.quantizers.shared.factor import InverseFactor
from rwkvquant.quantizers.shared.hessian import Hessian


def corrected(factor: InverseFactor, W: Tensor, cross_moment: Tensor, strength: float) -> Tensor:
    """W (out, in) and cross_moment (out, in), (x' - x + (h' - h) W^T)^T h / tokens -> W* in the type of W, computed in that type.

    The factor is that of the damped H (in, in), the same that the quantiser uses.
    """
    target = W.clone()
    change = (cross_moment.to(W)[:, factor.order] @ factor.U.T) @ factor.U  # H^-1 = U^T U, in the factor's order
    target[:, factor.order] += strength * change
    return target


def balanced_target(W: Tensor, hessian: Hessian, cross_moment: Tensor, strength: float, options: QuantizerOptions) -> Tensor:
    """`corrected` with input channels that are far out of line scaled to the size of the others (balance.py), and back.

    Damping is a share of the mean of diag(H). A few channels that are far larger would decide it, and W would stay as it is in all others.
    """
    exponents = balance([W.cpu().numpy()])
    if exponents is None:
        return corrected(hessian.factor(options), W, cross_moment, strength)
    power = torch.exp2(torch.from_numpy(exponents).to(W))
    return corrected(hessian.divided(exponents).factor(options), W * power, cross_moment / power, strength) / power
