"""Coordinate descent on codes: grids and tables stay as they are, and every weight in turn goes to the value of least loss.

    W  (rows, cols)     E = W - Q     H  (cols, cols)     G = E H     x  the change of a weight's value

    loss = tr(E H E^T);    changing Q_rj by x changes it by    H_jj x^2 - 2 G_rj x

and for two neighbouring columns by x H_pair x^T - 2 G_r,pair . x. Error feedback (uniform/gptq.py) chooses each column once,
while the columns after it are still free. Descent chooses each column with all others fixed, and takes a step only where it gains,
so that the loss never rises. (Behdin et al., QuantEase, arXiv:2309.01885, start the same descent from nearest values; from the codes
of error feedback it ends lower.) E and G are kept from one pass to the next (residual.py).

Gives up: it ends where no change of a single code gains, which need not be the best set of codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.kernels.dispatch import native_module
from rwkvquant.quantizers.shared.residual import BLOCK, Change, Residual

# columns, G, H of these columns, codes of all columns -> the change of the values; changes G and codes in place
BlockStep = Callable[[slice, Tensor, Tensor, Tensor], Tensor]


class HasCodes(Protocol):
    """A logical tensor, frozen, whose codes are one array (rows, columns or pairs)."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def codes(self) -> NDArray[np.uint8]: ...

    def decode(self) -> NDArray[np.float32]: ...


Coded = TypeVar("Coded", bound=HasCodes)


@dataclass(frozen=True)
class CodeSteps(Generic[Coded]):
    """How the codes of one codec step to better values.

    chooser(q, W, H, codes): a function that gives the change of `width` neighbouring columns for their G; it also updates `codes`
    (columns or pairs, rows) int64. blocks(q, W): the same for a block of columns in the native module; None for codecs without a native
    function.
    """

    chooser: Callable[[Coded, Tensor, Tensor, Tensor], Change]
    width: int
    blocks: Callable[[Coded, Tensor], BlockStep] | None = None


def descend(steps: CodeSteps[Coded], W: Tensor, H: Tensor, q: Coded, passes: int = 1, residual: Residual | None = None) -> Coded:
    """W (rows, cols), H (cols, cols) -> q with codes that lose no more in any row, after `passes` over all columns.

    `residual` is that of q, and is updated.
    """
    residual = residual or Residual(W, H, q.decode())
    before = residual.losses()
    for _ in range(passes):
        kept = residual.copy()
        codes = _native_pass(steps, q, residual)
        if codes is None:
            codes = one_pass(steps, q, residual)
        after = residual.losses()
        better = residual.gained(before, after)
        residual.restore(~better, kept)
        if not bool(better.any()):
            break
        before = torch.where(better, after, before)
        new = codes.T.contiguous().cpu().numpy()
        q = replace(q, codes=np.where(better.cpu().numpy()[:, None], new, q.codes))
    return q


def one_pass(steps: CodeSteps[Coded], q: Coded, residual: Residual) -> Tensor:
    """The definition: all columns in turn -> codes (columns or pairs, rows) uint8."""
    codes = torch.from_numpy(q.codes).to(residual.W.device).long().T.contiguous()  # changed in place
    residual.sweep(steps.width, steps.chooser(q, residual.W, residual.H, codes))
    return codes.to(torch.uint8)


def _native_pass(steps: CodeSteps[Coded], q: Coded, residual: Residual) -> Tensor | None:
    """The same in the native module; None off the CPU, without the module, and for codecs without a native function."""
    if steps.blocks is None or residual.W.device.type != "cpu" or native_module() is None:
        return None
    step = steps.blocks(q, residual.W)
    codes = torch.from_numpy(q.codes).T.clone(memory_format=torch.contiguous_format)  # changed in place
    residual.sweep_blocks(BLOCK, lambda block, G: step(block, G, residual.H[block, block], codes))
    return codes
