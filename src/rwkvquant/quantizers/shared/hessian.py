"""The second moments of a matrix's input, and their factors. Products with the same input share them."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize

Factorize = Callable[..., InverseFactor]  # (H, *, damping, act_order)


class Hessian:
    """H (in, in) of one activation. `dtype` is the type that weights are quantised in. `drift`: D (in, in) of shared/drift.py, if known.

    of_rows: for one matrix, H of each of several groups of its rows, (groups, in, in), weighted by the rows' gradients; None if not known.
    """

    of_rows: Tensor | None = None

    def __init__(self, H: Tensor, dtype: torch.dtype, drift: Tensor | None = None) -> None:
        self.H, self.drift, self._dtype = H, drift, dtype
        self._factors: dict[tuple[Factorize, float, bool], InverseFactor] = {}
        self._divided: dict[bytes, Hessian] = {}

    def for_matrix(self, of_rows: Tensor | None) -> Hessian:
        """The same, with what is known of the rows of one matrix. Both share their factors."""
        if of_rows is None:
            return self
        same = copy(self)
        same.of_rows = of_rows
        return same

    @property
    def diagonal(self) -> Tensor:
        return self.H.diagonal()

    @cached_property
    def working(self) -> Tensor:
        """H in the type that weights are quantised in."""
        return self.H.to(self._dtype)

    def divided(self, exponents: NDArray[np.int32]) -> Hessian:
        """That of the input divided by 2^exponents (in,), made at the first call, so that all settings of a matrix share its factor."""
        key = exponents.tobytes()
        if key not in self._divided:
            power = torch.exp2(torch.from_numpy(exponents).to(self.H))
            self._divided[key] = Hessian(self.H / power / power[:, None], self._dtype)
        return self._divided[key]

    def factor(self, options: QuantizerOptions, make: Factorize = factorize) -> InverseFactor:
        """The factor for these options, made by `make` at the first call. A codec that orders columns in its own way has its own `make`."""
        key = (make, options.damping, options.act_order)
        if key not in self._factors:
            self._factors[key] = make(self.working, damping=options.damping, act_order=options.act_order)
        return self._factors[key]
