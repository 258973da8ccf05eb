"""RWKV-7 "Goose" (x070, arXiv:2503.14456)."""

from __future__ import annotations

from rwkvquant.architectures.architecture import Architecture, Producer, Relative
from rwkvquant.architectures.base import Role, TensorSpec, lora, norm, projection, vector
from rwkvquant.architectures.rwkv import ANCHORS, OUTSIDE, RECURRENT, TUNED_STATE, heads_make_up_the_width, released, squared_relu

TABLE = (
    *norm("ln0", layers="first"),
    *norm("ln1"),
    *norm("ln2"),
    *(vector(f"att.x_{c}", "att.shift_delta") for c in "rwkvag"),
    TensorSpec("att.w0", (1, 1, "C"), Role.BIAS),
    lora("att.w1", ("C", "Rw"), "att.xw"),
    lora("att.w2", ("Rw", "C"), "att.w_hidden"),
    TensorSpec("att.a0", (1, 1, "C"), Role.BIAS),
    lora("att.a1", ("C", "Ra"), "att.xa"),
    lora("att.a2", ("Ra", "C"), "att.a_hidden"),
    TensorSpec("att.v0", (1, 1, "C"), Role.BIAS, layers="later"),
    lora("att.v1", ("C", "Rv"), "att.xv", layers="later"),
    lora("att.v2", ("Rv", "C"), "att.v_hidden", layers="later"),
    lora("att.g1", ("C", "Rg"), "att.xg"),
    lora("att.g2", ("Rg", "C"), "att.g_hidden"),
    vector("att.k_k", "att.k"),
    vector("att.k_a", "att.k_times_a_minus_1"),
    vector("att.r_k", "att.r_times_k", ("H", "N")),
    projection("att.receptance.weight", ("C", "C"), "att.xr"),
    projection("att.key.weight", ("C", "C"), "att.xk"),
    projection("att.value.weight", ("C", "C"), "att.xv"),
    projection("att.output.weight", ("C", "C"), "att.out", writes_residual=True),
    *norm("att.ln_x"),
    TUNED_STATE,
    vector("ffn.x_k", "ffn.shift_delta"),
    projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True, nonnegative_input=True, mostly_zero=True),
)

# The norm before the time mix has six readers, each with a scale of its own; tanh and sigmoid are before w2 and g2.
PRODUCERS = {
    "att.a_hidden": Producer(("att.a1",), mixes=True),
    "att.v_hidden": Producer(("att.v1",), mixes=True),
    "att.out": Producer(("att.g2",)),  # the gate, which multiplies the sum of the norm and the bonus
    "ffn.xk": Producer(("ln2.weight", "ln2.bias")),  # the token shift mixes channel j with channel j, from a state that begins with 0
    "ffn.hidden": Producer(("ffn.key.weight",), 0.5),  # relu(c k)^2 = c^2 relu(k)^2
}

# The error message names the first one whose mark matches. Newer ones come first: each has the tensors of an older one.
RELATIVES = (
    Relative(r"\brosa|ffn\.enn\.weight$", "RWKV-8", newer=True),
    Relative(r"^(blocks\.\d+\.)?qkv\.", "RWKV-7b (v7b, with DeepEmbed and DEA)", newer=True),
    Relative(r"\bffn\.s_emb", "RWKV-7a (v7a, with DeepEmbed)", newer=True),
)

ARCHITECTURE = Architecture(
    name="rwkv7",
    title="RWKV-7 (x070)",
    table=TABLE,
    outside=OUTSIDE,
    state=RECURRENT,
    mark=r"^blocks\.\d+\.att\.(r_k|k_k|x_[rwkvag])$",
    anchors=ANCHORS,
    squared_relu=squared_relu("ffn.x_k"),
    producers=PRODUCERS,
    carry="v_first",  # the first layer's values, which every later layer mixes into its own
    relatives=RELATIVES,
    rules=(heads_make_up_the_width,),
    released={
        "x070-0.1b": released(12, 768, 4 * 768, Rw=64, Ra=64, Rv=32, Rg=128),
        "x070-0.4b": released(24, 1024, 4 * 1024, Rw=64, Ra=64, Rv=32, Rg=128),
        "x070-1.5b": released(24, 2048, 4 * 2048, Rw=96, Ra=96, Rv=64, Rg=256),
        "x070-2.9b": released(32, 2560, 4 * 2560, Rw=96, Ra=96, Rv=64, Rg=320),
        "x070-7.2b": released(32, 4096, 4 * 4096, Rw=128, Ra=128, Rv=96, Rg=480),
    },
)
