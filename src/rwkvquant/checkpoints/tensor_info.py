"""What every reader of a checkpoint format gives: tensors by name, and their values as float32."""

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
    """A tensor of a checkpoint as it is stored; dtype is "bfloat16", "float16" or "float32"."""

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

    `written_as` is the layout that the file says it has, or that is usual for its format; believed only where nothing else tells.

    `read` raises CheckpointError for a tensor whose bytes are damaged or not finite.
    """

    tensors: dict[str, TensorInfo]
    format: str
    written_as: str | None

    def read(self, name: str) -> NDArray[np.float32]: ...


def check_name(name: str) -> None:
    """Raises CheckpointError for a name that could not be shown to the user."""
    if not name.isprintable() or len(name) > MAX_NAME:
        raise CheckpointError(f"a tensor's name is printable and has at most {MAX_NAME} characters; got {shown(name)}")
