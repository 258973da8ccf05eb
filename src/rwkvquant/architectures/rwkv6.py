"""RWKV-6 "Finch" (x060, arXiv:2404.05892)."""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.architectures.architecture import Architecture, Producer, Relative, Shape
from rwkvquant.architectures.base import Role, TensorSpec, lora, norm, projection, vector
from rwkvquant.architectures.rwkv import ANCHORS, OUTSIDE, RECURRENT, TUNED_STATE, heads_make_up_the_width, released, squared_relu

TABLE = (
    *norm("ln0", layers="first"),
    *norm("ln1"),
    *norm("ln2"),
    *(vector(f"att.time_maa_{c}", "att.shift_delta") for c in "xwkvrg"),
    lora("att.time_maa_w1", ("C", "5*Rm"), "att.xx"),
    TensorSpec("att.time_maa_w2", (5, "Rm", "C"), Role.LORA, transposed=True, slices=True, input="att.maa_hidden"),
    TensorSpec("att.time_decay", (1, 1, "C"), Role.BIAS),
    lora("att.time_decay_w1", ("C", "Rd"), "att.xw"),
    lora("att.time_decay_w2", ("Rd", "C"), "att.w_hidden"),
    TensorSpec("att.time_faaaa", ("H", "N"), Role.BIAS),
    projection("att.receptance.weight", ("C", "C"), "att.xr"),
    projection("att.key.weight", ("C", "C"), "att.xk"),
    projection("att.value.weight", ("C", "C"), "att.xv"),
    projection("att.output.weight", ("C", "C"), "att.out", writes_residual=True),
    projection("att.gate.weight", ("C", "C"), "att.xg"),
    *norm("att.ln_x"),
    TUNED_STATE,
    *(vector(f"ffn.time_maa_{c}", "ffn.shift_delta") for c in "kr"),
    projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    projection("ffn.receptance.weight", ("C", "C"), "ffn.xr"),
    projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True, nonnegative_input=True, mostly_zero=True),
)

# The norm before the channel mix has two readers, each with a scale of its own, and tanh is before all second LoRA factors.
PRODUCERS = {
    "att.out": Producer(("att.ln_x.weight", "att.ln_x.bias")),  # what the gate multiplies
    "ffn.hidden": Producer(("ffn.key.weight",), 0.5),  # relu(c k)^2 = c^2 relu(k)^2
}


def older_version(shapes: Mapping[str, Shape]) -> str:
    """RWKV-5 normalises each head (ln_x). 5.1 has a gate too. 5.2 has a decay for each channel instead of each head."""
    if not any("att.ln_x." in name for name in shapes):
        return "RWKV-4"
    decay = next((shape for name, shape in shapes.items() if name.endswith("att.time_decay")), ())
    if len(decay) > 1 and decay[1] > 1:
        return "RWKV-5.2"
    return "RWKV-5.1" if any("att.gate." in name for name in shapes) else "RWKV-5"


ARCHITECTURE = Architecture(
    name="rwkv6",
    title="RWKV-6 (x060)",
    table=TABLE,
    outside=OUTSIDE,
    state=RECURRENT,
    mark=r"^blocks\.\d+\.att\.time_maa_",
    anchors=ANCHORS,
    squared_relu=squared_relu("ffn.time_maa_k"),
    producers=PRODUCERS,
    relatives=(Relative(r"^blocks\.\d+\.att\.(time_mix_|time_decay$)", older_version),),
    rules=(heads_make_up_the_width,),
    released={
        "x060-1.6b": released(24, 2048, 2048 * 7 // 2, Rm=32, Rd=64),
        "x060-3b": released(32, 2560, 2560 * 7 // 2, Rm=32, Rd=64),
        "x060-7b": released(32, 4096, 4096 * 7 // 2, Rm=64, Rd=128),
        "x060-14b": released(61, 4096, 4096 * 7 // 2, Rm=64, Rd=128),
    },
)
