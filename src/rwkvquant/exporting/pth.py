"""Write dequantised weights with torch.save, as the `rwkv` package loads them."""

from __future__ import annotations

import errno
import os
from typing import Any, BinaryIO

import torch
from numpy.typing import NDArray


def write_pth(out: BinaryIO, stored: dict[str, NDArray[Any]], dtype: str) -> None:
    """`stored`: name -> array as `as_stored` of checkpoints/values.py makes it. `dtype`: "fp16" | "bf16" | "fp32". Raises OSError."""
    tensors = {name: torch.from_numpy(array) for name, array in stored.items()}
    if dtype == "bf16":
        tensors = {name: tensor.view(torch.bfloat16) for name, tensor in tensors.items()}
    try:
        torch.save(tensors, out)
    except RuntimeError as error:  # torch reports a failed write as an internal error; its cause is the error for the user
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
