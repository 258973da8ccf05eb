"""Levels for the length of a vector of normal numbers, by Lloyd and Max (PCDVQ, arXiv:2506.05432).

    r  (the length of k = 8 standard normal numbers)   density f(r) ~ r^(k-1) exp(-r^2 / 2)      c_i  levels      u_i  borders between them

    u_i = (c_i + c_(i+1)) / 2
    c_i = E[r | u_(i-1) < r < u_i] = sqrt(2) G((k+1)/2) / G(k/2)  [P((k+1)/2, u^2/2)] / [P(k/2, u^2/2)]      [.] from u_(i-1) to u_i

with G the gamma function and P the regularised lower incomplete gamma function. The density is log-concave, so there is one solution, and
the iteration finds it. kernels/gemv_polar.py has it as whole numbers, which all readers share; this is where they come from.
"""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

from rwkvquant.kernels.directions import LENGTH, ONE
from rwkvquant.kernels.gemv_polar import LEVELS

ROUNDS = 5000  # with 16 levels; nothing changes any more


@cache
def lloyd_max(bits: int, k: int = LENGTH) -> Tensor:
    """(2**bits,) float64."""
    mean = math.sqrt(2) * math.exp(math.lgamma((k + 1) / 2) - math.lgamma(k / 2))
    c = torch.linspace(mean - 1.5, mean + 1.5, 2**bits, dtype=torch.float64)
    for _ in range(ROUNDS):
        half = torch.cat([c.new_zeros(1), (c[1:] + c[:-1]) / 2, c.new_tensor([50.0])]).square() / 2
        c = mean * torch.special.gammainc(c.new_tensor((k + 1) / 2), half).diff() / torch.special.gammainc(c.new_tensor(k / 2), half).diff()
    return c


@cache
def levels(bits: int) -> Tensor:
    """(2**bits,) float64: the lengths that the stored levels stand for, in units of the deviation of a component."""
    stored = torch.tensor(LEVELS[bits], dtype=torch.float64)
    return stored * (largest(bits) / stored[-1])


@cache
def largest(bits: int) -> float:
    """The last level."""
    return float(lloyd_max(bits)[-1])


def stored(bits: int) -> tuple[int, ...]:
    """LEVELS[bits], by the definition: the last level is 127 * 128, so that a direction's 127 becomes 63."""
    c = lloyd_max(bits)
    return tuple(round(ONE * (ONE + 1) * float(level / c[-1])) for level in c)
