"""The tensors of RWKV-6 "Finch" (x060)."""

from __future__ import annotations

from rwkvquant.architectures.base import STATE, Role, TensorSpec, lora, norm, projection, vector

TABLE = [
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
    STATE,
    *(vector(f"ffn.time_maa_{c}", "ffn.shift_delta") for c in "kr"),
    projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    projection("ffn.receptance.weight", ("C", "C"), "ffn.xr"),
    projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True),
]
