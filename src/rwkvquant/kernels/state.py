"""Sizes of a model, and the recurrent state that its step carries from token to token.

    L  layers    C  width    F  hidden width of the channel mix    V  vocabulary    H  heads    N  head size    B  sequences

Both architectures have the same state: the last input of each token shift, and one N x N matrix a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Dims:
    """All sizes of a model. `ranks` are those of its LoRA pairs by the symbols of architectures/, {"Rw": 64, ...}."""

    layers: int
    width: int
    hidden: int
    vocab: int
    heads: int
    head_size: int
    ranks: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class State:
    """The recurrent state of B sequences, float32. A step returns a new one and leaves this one as it was.

    att_shift, ffn_shift (L, B, C): the inputs of the previous token's mixes, after ln1 and ln2;
    wkv (L, B, H, N, N), indexed [value, key] in both architectures.
    """

    att_shift: NDArray[np.float32]
    ffn_shift: NDArray[np.float32]
    wkv: NDArray[np.float32]

    @classmethod
    def zeros(cls, dims: Dims, batch: int = 1) -> State:
        shift = (dims.layers, batch, dims.width)
        wkv = (dims.layers, batch, dims.heads, dims.head_size, dims.head_size)
        return cls(np.zeros(shift, np.float32), np.zeros(shift, np.float32), np.zeros(wkv, np.float32))

    @property
    def batch(self) -> int:
        return self.att_shift.shape[1]

    def copy(self) -> State:
        return State(self.att_shift.copy(), self.ffn_shift.copy(), self.wkv.copy())

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> State:
        """A copy of the sequences named by `indices`, in that order: keep those that still run, or repeat one."""
        chosen = np.asarray(indices, dtype=np.intp)
        return State(self.att_shift[:, chosen], self.ffn_shift[:, chosen], self.wkv[:, chosen])
