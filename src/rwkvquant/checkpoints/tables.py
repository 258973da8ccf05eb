"""The one table of each architecture: every tensor of a BlinkDL checkpoint, its shape, and what quantisation must know of it.

Shapes are as stored in the checkpoint, in symbols that are read off the tensors themselves:

    C  width        F  hidden width of the channel mix     V  vocabulary     H  heads     N  head size     L  layers
    Rw Ra Rv Rg     ranks of RWKV-7's LoRA pairs           Rm Rd             ranks of RWKV-6's LoRA pairs

`input` names the activation that feeds a product (the forward in models/ reports it to a tap under that name, and the
calibration keeps one Hessian for it). `partner` names the activation that an element-wise vector is multiplied with
(RWKVQuant, arXiv:2505.03803, section 3.3; methods list which x the product has).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    PROJECTION = "projection"
    LORA = "lora"
    ELEMENTWISE = "elementwise"
    NORM = "norm"
    BIAS = "bias"  # added, not multiplied: w0, a0, v0, time_decay; and time_faaaa, the bonus of the current token
    EMBEDDING = "embedding"
    HEAD = "head"
    STATE = "state"  # a tuned initial state


QUANTIZED_ROLES = (Role.PROJECTION, Role.LORA)


@dataclass(frozen=True)
class TensorSpec:
    """One line of the table. `name` is relative to its block ("att.key.weight") or global ("head.weight")."""

    name: str
    shape: tuple[str | int, ...]
    role: Role
    transposed: bool = False  # stored (in, out): the product is x @ W, and the packed file keeps (out, in)
    slices: bool = False  # the leading axis counts independent matrices, each quantised as "<name>.<index>"
    input: str | None = None
    partner: str | None = None
    layers: str = "all"  # "all" | "first" | "later" (required in later layers, optional and unused in the first)
    optional: bool = False
    writes_residual: bool = False  # its product is added to the residual stream


def _projection(name: str, shape: tuple[str, str], fed_by: str, writes_residual: bool = False) -> TensorSpec:
    return TensorSpec(name, shape, Role.PROJECTION, input=fed_by, writes_residual=writes_residual)


def _lora(name: str, shape: tuple[str, str], fed_by: str, layers: str = "all") -> TensorSpec:
    return TensorSpec(name, shape, Role.LORA, transposed=True, input=fed_by, layers=layers)


def _vector(name: str, partner: str, shape: tuple[str | int, ...] = (1, 1, "C")) -> TensorSpec:
    return TensorSpec(name, shape, Role.ELEMENTWISE, partner=partner)


def _norm(name: str, layers: str = "all") -> list[TensorSpec]:
    return [TensorSpec(f"{name}.{part}", ("C",), Role.NORM, layers=layers) for part in ("weight", "bias")]


GLOBAL = [
    TensorSpec("emb.weight", ("V", "C"), Role.EMBEDDING),
    *_norm("ln_out"),
    TensorSpec("head.weight", ("V", "C"), Role.HEAD, input="head.x"),
]

_STATE = TensorSpec("att.time_state", ("H", "N", "N"), Role.STATE, optional=True)

RWKV7 = [
    *_norm("ln0", layers="first"),
    *_norm("ln1"),
    *_norm("ln2"),
    *(_vector(f"att.x_{c}", "att.shift_delta") for c in "rwkvag"),
    TensorSpec("att.w0", (1, 1, "C"), Role.BIAS),
    _lora("att.w1", ("C", "Rw"), "att.xw"),
    _lora("att.w2", ("Rw", "C"), "att.w_hidden"),
    TensorSpec("att.a0", (1, 1, "C"), Role.BIAS),
    _lora("att.a1", ("C", "Ra"), "att.xa"),
    _lora("att.a2", ("Ra", "C"), "att.a_hidden"),
    TensorSpec("att.v0", (1, 1, "C"), Role.BIAS, layers="later"),
    _lora("att.v1", ("C", "Rv"), "att.xv", layers="later"),
    _lora("att.v2", ("Rv", "C"), "att.v_hidden", layers="later"),
    _lora("att.g1", ("C", "Rg"), "att.xg"),
    _lora("att.g2", ("Rg", "C"), "att.g_hidden"),
    _vector("att.k_k", "att.k"),
    _vector("att.k_a", "att.k_times_a_minus_1"),
    _vector("att.r_k", "att.r_times_k", ("H", "N")),
    _projection("att.receptance.weight", ("C", "C"), "att.xr"),
    _projection("att.key.weight", ("C", "C"), "att.xk"),
    _projection("att.value.weight", ("C", "C"), "att.xv"),
    _projection("att.output.weight", ("C", "C"), "att.out", writes_residual=True),
    *_norm("att.ln_x"),
    _STATE,
    _vector("ffn.x_k", "ffn.shift_delta"),
    _projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    _projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True),
]

RWKV6 = [
    *_norm("ln0", layers="first"),
    *_norm("ln1"),
    *_norm("ln2"),
    *(_vector(f"att.time_maa_{c}", "att.shift_delta") for c in "xwkvrg"),
    _lora("att.time_maa_w1", ("C", "5*Rm"), "att.xx"),
    TensorSpec("att.time_maa_w2", (5, "Rm", "C"), Role.LORA, transposed=True, slices=True, input="att.maa_hidden"),
    TensorSpec("att.time_decay", (1, 1, "C"), Role.BIAS),
    _lora("att.time_decay_w1", ("C", "Rd"), "att.xw"),
    _lora("att.time_decay_w2", ("Rd", "C"), "att.w_hidden"),
    TensorSpec("att.time_faaaa", ("H", "N"), Role.BIAS),
    _projection("att.receptance.weight", ("C", "C"), "att.xr"),
    _projection("att.key.weight", ("C", "C"), "att.xk"),
    _projection("att.value.weight", ("C", "C"), "att.xv"),
    _projection("att.output.weight", ("C", "C"), "att.out", writes_residual=True),
    _projection("att.gate.weight", ("C", "C"), "att.xg"),
    *_norm("att.ln_x"),
    _STATE,
    *(_vector(f"ffn.time_maa_{c}", "ffn.shift_delta") for c in "kr"),
    _projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    _projection("ffn.receptance.weight", ("C", "C"), "ffn.xr"),
    _projection("ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True),
]

TABLES: dict[str, list[TensorSpec]] = {"rwkv7": RWKV7, "rwkv6": RWKV6}
