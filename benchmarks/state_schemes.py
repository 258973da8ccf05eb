"""Ways to keep the matrices of a state in few bits, for benchmarks/state.py: what comes back, and the bits that it takes.

REST rounds once. STEP rounds after each token, in place; S is (..., N, N) [value, key]. Scales are counted at 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.kernels.resting import outer, rank_one, rotated

Array = NDArray[np.float32]
N = 64


@dataclass(frozen=True)
class Rest:
    name: str
    side_bits: float
    """Bits of scales and vectors, for each value."""
    apply: Callable[[Array, int], Array]
    """S, n -> what comes back, of codes in -n..n."""


def largest(S: Array, axis: int | tuple[int, ...]) -> Array:
    return np.maximum(np.abs(S).max(axis, keepdims=True), np.float32(1e-30))


def rounded(S: Array, axis: int | tuple[int, ...], n: int) -> Array:
    step = largest(S, axis) / np.float32(n)
    return np.rint(S / step) * step


def rows(S: Array, n: int) -> Array:
    return rounded(S, -1, n)


def groups(S: Array, n: int, size: int) -> Array:
    return rows(S.reshape(*S.shape[:-1], -1, size), n).reshape(S.shape)


def two_dimensional(S: Array, n: int, power: float = 0.5) -> Array:
    """Columns (keys) are divided by a power of their largest value, then rows are rounded."""
    columns = largest(S, -2) ** np.float32(power)
    return rows(S / columns, n) * columns


def shifted(S: Array, n: int) -> Array:
    """The same after the mean of each column is taken away."""
    mean = S.mean(-2, keepdims=True)
    return mean + two_dimensional(S - mean, n)


def clipped(S: Array, n: int) -> Array:
    """Two-dimensional, and each row is clipped where its squared error is least."""
    columns = largest(S, -2) ** np.float32(0.5)
    T = S / columns
    best, least = None, None
    for share in (1, 0.93, 0.86, 0.8, 0.73, 0.66):
        step = largest(T, -1) * np.float32(share / n)
        found = np.clip(np.rint(T / step), -n, n) * step * columns
        error = ((found - S) ** 2).sum(-1, keepdims=True)
        best = found if best is None else np.where(error < least, found, best)
        least = error if least is None else np.minimum(least, error)
    return best


def turned(S: Array, n: int) -> Array:
    return rotated(rows(rotated(S), n))


def after_rank_one(apply: Callable[[Array, int], Array]) -> Callable[[Array, int], Array]:
    def both(S: Array, n: int) -> Array:
        part = outer(*rank_one(S))
        return part + apply(S - part, n)

    return both


REST = [
    Rest("one scale for a head", 16 / N**2, lambda S, n: rounded(S, (-1, -2), n)),
    Rest("rows (values)", 16 / N, rows),
    Rest("columns (keys)", 16 / N, lambda S, n: rounded(S, -2, n)),
    Rest("groups of 32 in a row", 16 / 32, lambda S, n: groups(S, n, 32)),
    Rest("groups of 16 in a row", 16 / 16, lambda S, n: groups(S, n, 16)),
    Rest("two-dimensional", 32 / N, two_dimensional),
    Rest("two-dimensional, shifted", 48 / N, shifted),
    Rest("two-dimensional, clipped", 32 / N, clipped),
    Rest("rows, rotated", 16 / N, turned),
    Rest("rank one + rows", 32 / N, after_rank_one(rows)),
    Rest("rank one + two-dimensional", 48 / N, after_rank_one(two_dimensional)),
    Rest("rank one + rows, rotated", 32 / N, after_rank_one(turned)),
]


@dataclass(frozen=True)
class Step:
    name: str
    bits: float
    apply: Callable[[Tensor, torch.Generator, Tensor], Tensor]
    """S (..., N, N), random numbers, static scales of columns (..., 1, N) -> what is kept."""
    every: int = 1
    """Tokens between two roundings: the tokens since then are kept as they are, a window."""
    long: bool = False
    """Whether it is measured up to 25k tokens."""


def step_of_rows(S: Tensor, n: int) -> Tensor:
    return S.abs().amax(-1, keepdim=True).clamp_(min=1e-30) / n


def nearest(S: Tensor, n: int) -> Tensor:
    d = step_of_rows(S, n)
    return torch.round(S / d).mul_(d)


def stochastic(S: Tensor, n: int, random: torch.Generator) -> Tensor:
    d = step_of_rows(S, n)
    return (S / d).add_(noise(S.shape, random)).floor_().clamp_(-n, n).mul_(d)


def noise(shape: torch.Size, random: torch.Generator) -> Tensor:
    """Uniform in 0..1, from a table at a random place: new numbers for every token would take most of the time."""
    begin = int(torch.randint(len(NOISE) - shape.numel(), (), generator=random))
    return NOISE[begin : begin + shape.numel()].view(shape)


NOISE = torch.rand(1 << 23, generator=torch.Generator().manual_seed(0))


def with_residual(S: Tensor, n: int, bits: int = 4) -> Tensor:
    """Codes, and what they leave in a few bits: with 4, -8..7 sixteenths of a step."""
    d = step_of_rows(S, n)
    x = S / d
    q, parts = torch.round(x), 1 << bits
    return (x.sub_(q).mul_(parts).round_().clamp_(-parts // 2, parts // 2 - 1).div_(parts).add_(q)).mul_(d)


def in_groups(S: Tensor, n: int, size: int) -> Tensor:
    return nearest(S.reshape(*S.shape[:-1], -1, size), n).view(S.shape)


def hadamard(size: int) -> Tensor:
    H = torch.ones(1, 1)
    while len(H) < size:
        H = torch.cat([torch.cat([H, H], 1), torch.cat([H, -H], 1)])
    return H / size**0.5


ROTATION = hadamard(N)
QUARTERS = torch.kron(hadamard(4), torch.eye(N // 4))  # value j with j + 16, j + 32 and j + 48


def in_rotation(apply: Callable[[Tensor, torch.Generator], Tensor], R: Tensor = ROTATION) -> Callable[..., Tensor]:
    return lambda S, random, columns: apply(S @ R, random) @ R


def in_static_columns(apply: Callable[[Tensor], Tensor]) -> Callable[[Tensor, torch.Generator, Tensor], Tensor]:
    return lambda S, random, columns: apply(S / columns).mul_(columns)


def companded(S: Tensor, n: int, random: torch.Generator | None) -> Tensor:
    """Steps that grow with the value: the square root is rounded. With random numbers, up or down so that the mean is right."""
    most = S.abs().amax(-1, keepdim=True).clamp_(min=1e-30)
    x = (S.abs() / most).sqrt_().mul_(n)
    if random is None:
        q = x.round_()
    else:
        low = x.floor()
        share = (x * x - low * low).div_(2 * low + 1)  # of the way from low^2 to (low + 1)^2
        q = low + (noise(S.shape, random) < share)
    return (q / n).square_().mul_(most).copysign_(S)


def bfloat(S: Tensor, random: torch.Generator | None = None) -> Tensor:
    if random is None:
        return S.bfloat16().float()
    bits = S.contiguous().view(torch.int32) + (noise(S.shape, random) * 65536).int()
    return (bits & -65536).view(torch.float32)


def half(S: Tensor) -> Tensor:
    return S.clamp(-65504, 65504).half().float()


STEP = [
    Step("int8, nearest", 8 + 16 / N, lambda S, random, columns: nearest(S, 127), long=True),
    Step("int8, stochastic", 8 + 16 / N, lambda S, random, columns: stochastic(S, 127, random), long=True),
    Step("int8 + residual of 4 bits", 12 + 16 / N, lambda S, random, columns: with_residual(S, 127), long=True),
    Step("int8, nearest, window of 16", 8 + 16 / N, lambda S, random, columns: nearest(S, 127), 16, long=True),
    Step("int8, nearest, window of 64", 8 + 16 / N, lambda S, random, columns: nearest(S, 127), 64),
    Step("int8 + residual of 2 bits", 10 + 16 / N, lambda S, random, columns: with_residual(S, 127, 2)),
    Step("int8, groups of 16, nearest", 9, lambda S, random, columns: in_groups(S, 127, 16)),
    Step("int8 rotated, nearest", 8 + 16 / N, in_rotation(lambda T, random: nearest(T, 127))),
    Step("int8 rotated, stochastic", 8 + 16 / N, in_rotation(lambda T, random: stochastic(T, 127, random)), long=True),
    Step("int8 rotated by quarters, nearest", 8 + 16 / N, in_rotation(lambda T, random: nearest(T, 127), QUARTERS)),
    Step("int8 two-dimensional, nearest", 8 + 16 / N, in_static_columns(lambda S: nearest(S, 127))),
    Step("int8 two-dimensional + residual", 12 + 16 / N, in_static_columns(lambda S: with_residual(S, 127))),
    Step("int8 companded, nearest", 8 + 16 / N, lambda S, random, columns: companded(S, 127, None)),
    Step("int8 companded, stochastic", 8 + 16 / N, lambda S, random, columns: companded(S, 127, random)),
    Step("12 bits, stochastic", 12 + 16 / N, lambda S, random, columns: stochastic(S, 2047, random)),
    Step("int16, nearest", 16 + 16 / N, lambda S, random, columns: nearest(S, 32767)),
    Step("bfloat16, nearest", 16, lambda S, random, columns: bfloat(S), long=True),
    Step("bfloat16, stochastic", 16, lambda S, random, columns: bfloat(S, random)),
    Step("float16, nearest", 16, lambda S, random, columns: half(S), long=True),
]
