"""The second moments of a matrix's input, and their factors. Products with the same input share them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize

Factorize = Callable[..., InverseFactor]  # (H, *, damping, act_order)


class Hessian:
    """H (in, in) of one activation. `dtype` is the type that weights are quantised in. `drift`: D (in, in) of shared/drift.py, if known."""

    def __init__(self, H: Tensor, dtype: torch.dtype, drift: Tensor | None = None) -> None:
        self.H, self.drift, self._dtype = H, drift, dtype
        self._factors: dict[tuple[Factorize, float, bool], InverseFactor] = {}

    @property
    def diagonal(self) -> Tensor:
        return self.H.diagonal()

    @cached_property
    def working(self) -> Tensor:
        """H in the type that weights are quantised in."""
        return self.H.to(self._dtype)

    def factor(self, options: QuantizerOptions, make: Factorize = factorize) -> InverseFactor:
        """The factor for these options, made by `make` at the first call. A codec that orders columns in its own way has its own `make`."""
        key = (make, options.damping, options.act_order)
        if key not in self._factors:
            self._factors[key] = make(self.working, damping=options.damping, act_order=options.act_order)
        return self._factors[key]
