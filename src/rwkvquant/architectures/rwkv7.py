"""The tensors of RWKV-7 "Goose" (x070)."""

from __future__ import annotations

from rwkvquant.architectures.base import STATE, Role, TensorSpec, lora, norm, projection, vector

TABLE = [
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
    STATE,
    vector("ffn.x_k", "ffn.shift_delta"),
    projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True),
]
