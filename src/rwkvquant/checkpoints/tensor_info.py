"""The interface of every reader of a checkpoint format: tensors by name, and their values as float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

MAX_NAME = 256
BITS = {
    **{"bfloat16": 16.0, "float16": 16.0, "float32": 32.0},
    **{"q4_0": 4.5, "q4_1": 5.0, "q5_0": 5.5, "q5_1": 6.0, "q8_0": 8.5, "iq4_nl": 4.5, "iq4_xs": 4.25},
    **{"iq1_s": 1.5625, "iq1_m": 1.75, "iq2_xxs": 2.0625, "iq2_xs": 2.3125, "iq2_s": 2.5625, "iq3_xxs": 3.0625, "iq3_s": 3.4375},
    **{"q2_K": 2.625, "q3_K": 3.4375, "q4_K": 4.5, "q5_K": 5.5, "q6_K": 6.5625},
}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a checkpoint stores it. `dtype` is "bfloat16", "float16", "float32", or a block type of GGUF such as "q4_K".

    `bits`: of one weight, with its share of a block's scales.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def bits(self) -> float:
        return BITS[self.dtype]

    @property
    def parameters(self) -> int:
        count = 1
        for size in self.shape:
            count *= size
        return count


class TensorFile(Protocol):
    """`tensors` in the file's order; `format` "pth" | "safetensors" | "gguf".

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
