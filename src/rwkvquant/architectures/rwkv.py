"""What the architectures of the RWKV family share: the tensors outside the blocks, and the recurrent state."""

from __future__ import annotations

from rwkvquant.architectures.architecture import SquaredRelu
from rwkvquant.architectures.base import Role, TensorSpec, norm
from rwkvquant.architectures.dims import Dims
from rwkvquant.kernels.state import StateArray

VOCAB, HEAD_SIZE = 65536, 64  # of all released models

OUTSIDE = (
    TensorSpec("emb.weight", ("V", "C"), Role.EMBEDDING),
    *norm("ln_out"),
    TensorSpec("head.weight", ("V", "C"), Role.HEAD, input="head.x"),
)

TUNED_STATE = TensorSpec("att.time_state", ("H", "N", "N"), Role.STATE, optional=True, starts="wkv")

RECURRENT = (
    StateArray("att_shift", ("L", "B", "C")),  # the input of the previous token's time mix, after ln1
    StateArray("ffn_shift", ("L", "B", "C")),  # the input of the previous token's channel mix, after ln2
    StateArray("wkv", ("L", "B", "H", "N", "N")),  # one matrix per head, [value, key]
)

ANCHORS = ("att.receptance.weight", "ffn.key.weight")  # with embedding and head, their shapes give every size except the ranks


def heads_make_up_the_width(dims: Dims) -> str | None:
    if dims.heads * dims.head_size == dims.width:
        return None
    return f"heads x head_size must be the width {dims.width}; got {dims.heads} x {dims.head_size}"


def squared_relu(shift: str) -> SquaredRelu:
    return SquaredRelu(matrix="ffn.key.weight", gain="ln2.weight", bias="ln2.bias", shift=shift)


def released(layers: int, width: int, hidden: int, **ranks: int) -> Dims:
    return Dims(layers, width, hidden, VOCAB, width // HEAD_SIZE, HEAD_SIZE, ranks)
