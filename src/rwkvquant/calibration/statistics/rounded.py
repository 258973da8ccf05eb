"""Sums over a text whose products are computed in bfloat16 (models/rounded.py): the activations are rounded as those products round them.

Products of two bfloat16 numbers are exact in float32, and are added in float32. So a sum is that of the rounded activations, whatever
multiplies them; each value has a relative error of at most 2^-9. A Xeon with AMX takes a third of the time
(docs/notebook.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


def to_bfloat16(x: Tensor) -> Tensor:
    """The nearest values of bfloat16, in float32."""
    return x.bfloat16().float()


@contextmanager
def bfloat16_factors(all_are: bool = True) -> Iterator[None]:
    """Products of float32 tensors that hold values of bfloat16 may be given to units for bfloat16. With False nothing changes."""
    before = torch.get_float32_matmul_precision()
    if all_are:
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
