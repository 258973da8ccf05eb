"""Dequantised weights as torch.save writes them, which is what the `rwkv` package loads."""

from __future__ import annotations

import errno
import os
from typing import Any, BinaryIO

import torch
from numpy.typing import NDArray


def write_pth(out: BinaryIO, stored: dict[str, NDArray[Any]], dtype: str) -> None:
    """`stored` as checkpoints/values.py's `as_stored` gives it. Raises OSError."""
    tensors = {name: torch.from_numpy(array) for name, array in stored.items()}
    if dtype == "bf16":
        tensors = {name: tensor.view(torch.bfloat16) for name, tensor in tensors.items()}
    try:
        torch.save(tensors, out)
    except RuntimeError as error:  # torch tells of a failed write in terms of its own bookkeeping; the error underneath is the user's
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
