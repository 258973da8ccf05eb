"""The sums of pass 1 over one matrix: its inputs, and the gradients of the loss by its outputs. sensitivity.py says what they mean."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from rwkvquant.calibration.statistics.inputs import InputStatistics

PERCENTILE, TIMES = 0.99, 4.0


def limits(g: Tensor, x: Tensor | None = None) -> Tensor:
    """g (.., length, out), x (.., length, in) -> factors (.., length); a token's |g|^2 |x|^2 times it is at most 4 times the row's 99th
    percentile. In |x|^2 each channel has its mean square of the row as its unit, so a channel that is large in all tokens does not decide.

    Losses to second order mean something only where changes are small. Where a norm divides by almost nothing, a gradient has no bound: the
    output of the first token of a row is r . k times v, and r . k may be near 0. One such token of 16,384 outweighed all others by
    hundreds. In most matrices less than one token of 1,000 is limited (docs/methods/selection.md).
    """
    sizes = torch.linalg.vector_norm(g, dim=-1).square()
    if x is not None:
        squares = x.square()
        means = squares.mean(-2, keepdim=True)
        sizes *= squares.div_(means.where(means > 0, 1.0)).sum(-1)
    most = TIMES * torch.quantile(sizes, PERCENTILE, dim=-1, keepdim=True)
    return torch.where((sizes > most) & (most > 0), most / sizes, 1.0)


class Sensitivity:
    """What pass 1 finds for one matrix (out, in): f of its rows, H_g, and the plain second moments of its inputs.

    Tokens whose inputs and gradients are far out count less (`limits`), but for `of_groups`. For images, instead of H_g, the gradients of
    each image by some rows of the matrix.
    """

    def __init__(
        self,
        out: int,
        width: int,
        device: torch.device | str = "cpu",
        rows_of_images: Tensor | None = None,
        groups: int = 0,
        rounded: bool = False,
    ) -> None:
        """`rows_of_images`: for images, indices of the rows whose errors `loss` will be asked for. `groups`: of rows, for `of_groups`.
        `rounded`: see InputStatistics."""
        self.inputs = InputStatistics(width, device, rounded)
        self._squares = torch.zeros(out, dtype=torch.float64, device=device)
        self._weighted = InputStatistics(width, device, rounded)
        self._rows_of_images, self._of_images = rows_of_images, list[Tensor]()
        self._limited = rows_of_images is None and not groups
        self._groups = [InputStatistics(width, device, rounded) for _ in range(min(groups, out))]

    def add(self, x: Tensor, g: Tensor) -> None:
        """x (..., in) and g (..., out): inputs, and the gradient by outputs. Of images (images, patches, ...)."""
        if self._rows_of_images is not None:
            self._of_images.append(g[..., self._rows_of_images].transpose(1, 2) @ x)  # (images, rows, in)
        factors = limits(g, x).reshape(-1, 1) if self._limited else 1.0
        x, g = x.reshape(-1, x.shape[-1]), g.reshape(-1, g.shape[-1])
        self.inputs.add(x)
        squares = g.square().mul_(factors)
        self._squares += squares.sum(0, dtype=torch.float64)
        if self._rows_of_images is None:
            self._weighted.add(x, squares.sum(1, keepdim=True))
        for of_group, part in zip(self._groups, squares.tensor_split(max(1, len(self._groups)), dim=1), strict=False):
            of_group.add(x, part.mean(1, keepdim=True))

    @property
    def of_groups(self) -> Tensor:
        """For each of `groups` of neighbouring rows, sum_t (mean of g_tr^2 over its rows) x_t x_t^T / tokens, (groups, in, in).

        These are the matrices of GuidedQuant (arXiv:2505.07004). That of one group is H_g times the mean of |g|^2 / rows. Read it last.
        """
        return torch.stack([group.H.float() for group in self._groups])

    @property
    def rows(self) -> Tensor:
        """f (out,) float64."""
        return self._squares / self.inputs.tokens

    @cached_property
    def _H_g(self) -> Tensor:
        """H_g times the mean of |g|^2 over tokens. Read it only after everything is added."""
        return self._weighted.H

    def loss(self, E: Tensor, rows: Tensor) -> float:
        """E (chosen rows, in), their indices -> their share of the KL divergence, in nats per token, or per image."""
        if self._rows_of_images is not None:
            assert torch.equal(rows, self._rows_of_images.cpu())
            changes = torch.cat(self._of_images).flatten(1) @ E.flatten()  # of log p of each image
            return 0.5 * float(changes.square().mean(dtype=torch.float64))
        total = float(self._squares.sum()) / self.inputs.tokens
        if total == 0:
            return 0.0  # no gradient: the model does not use this product
        E = E.to(self._H_g)
        shares = ((E @ self._H_g) * E).sum(1, dtype=torch.float64)
        return 0.5 * float((self.rows[rows] * shares).sum()) / total
