"""Which library multiplies matrices while a checkpoint is quantised.

torch gives float32 products to MKL, which does not use AVX-512 on CPUs that are not Intel's, and is half as fast there. With the precision
"medium" torch gives them to oneDNN, which does. But "medium" also allows bfloat16, and oneDNN uses it on CPUs that have units for it. So
it is switched on only if a test product shows that the result is still float32.

The switch is one for the whole process, and on a GPU it means TF32. So jobs on a GPU switch it off.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

FLOAT32_ERROR = 1e-5  # a product of bfloat16 numbers is off by 3e-3
TRIED = 512
RATED = 2048


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """oneDNN for float32 products on the CPU where it computes in float32; exact float32 on any other device.

    At the end the setting from before comes back.
    """
    before = torch.get_float32_matmul_precision()
    if device.type != "cpu":
        torch.set_float32_matmul_precision("highest")
    elif _exact("medium"):
        torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def product_rate(seconds: float = 0.5) -> float:
    """Floating-point operations a second of one processor in products of RATED x RATED matrices, the best of those that fit into `seconds`.

    Processor time is counted, not the time that other processes take on a shared machine.
    """
    a, b = _operands(RATED)
    best, end = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.process_time()
        a @ b
        best = max(best, 2 * RATED**3 / max(1e-9, time.process_time() - start))
    return best


def _exact(precision: str) -> bool:
    before = torch.get_float32_matmul_precision()
    a, b = _operands(TRIED)
    expected = a.double() @ b.double()
    torch.set_float32_matmul_precision(precision)
    try:
        error = (a @ b - expected).norm() / expected.norm()
    finally:
        torch.set_float32_matmul_precision(before)
    return float(error) < FLOAT32_ERROR


def _operands(size: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(size, size, generator=draws), torch.randn(size, size, generator=draws)
