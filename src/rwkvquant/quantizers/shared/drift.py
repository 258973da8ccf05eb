"""What a product should aim at where its input has drifted from the full-precision model's: its own output there.

    x   (tokens, in)   a product's input in the quantised model         x'  the same in the full-precision model
    W   (out, in)      its weight                                       H   (in, in)  x^T x / tokens, damped by lambda
    D   (in, in)       (x' - x)^T x / tokens, the drift (calibration/statistics/drift.py adds it up)

GPTAQ (arXiv:2504.02692) and Qronos (arXiv:2505.11695) both minimise, over the Q that codes can decode to,

    |x' W^T - x Q^T|^2 / tokens + lambda |W - Q|^2   =   tr((W* - Q) H (W* - Q)^T) + a constant,      W* = W + W D H^-1

and differ in the order in which they choose codes. With D = 0 both are GPTQ. docs/methods/gptaq.md has the derivations.

Gives up: x is the input of the quantised blocks before, through the *original* weights of its own block. The authors quantise a
block product by product.
"""

from __future__ import annotations

from torch import Tensor

from rwkvquant.quantizers.shared.correction import corrected
from rwkvquant.quantizers.shared.factor import InverseFactor


def own_output(factor: InverseFactor, W: Tensor, D: Tensor) -> Tensor:
    """W (out, in), D (in, in) -> W* (out, in): the weights that give the full-precision output best, before any rounding."""
    return corrected(factor, W, W @ D.to(W), 1.0)
