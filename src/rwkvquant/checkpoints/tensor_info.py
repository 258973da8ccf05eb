"""The interface of every reader of a checkpoint format: tensors by name, and their values as float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

MAX_NAME = 256


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a checkpoint stores it. `dtype` is "bfloat16", "float16" or "float32"."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def parameters(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


class TensorFile(Protocol):
    """`tensors` in the file's order; `format` "pth" | "safetensors".

    `written_as`: the layout that the file says it has, or the usual one of its format. Used only where names and shapes do not decide.

    `read` raises CheckpointError for a tensor whose bytes are damaged or whose values are not finite.
    """

    tensors: dict[str, TensorInfo]
    format: str
    written_as: str | None

    def read(self, name: str) -> NDArray[np.float32]: ...


def check_name(name: str) -> None:
    """Raises CheckpointError for a name that cannot be shown to the user."""
    if not name.isprintable() or len(name) > MAX_NAME:
        raise CheckpointError(f"a tensor's name is printable and has at most {MAX_NAME} characters; got {shown(name)}")
