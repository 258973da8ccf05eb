"""What the table of an architecture is made of: every tensor of a BlinkDL checkpoint, its shape, and what quantisation must know of it.

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


def projection(name: str, shape: tuple[str, str], fed_by: str, writes_residual: bool = False) -> TensorSpec:
    return TensorSpec(name, shape, Role.PROJECTION, input=fed_by, writes_residual=writes_residual)


def lora(name: str, shape: tuple[str, str], fed_by: str, layers: str = "all") -> TensorSpec:
    return TensorSpec(name, shape, Role.LORA, transposed=True, input=fed_by, layers=layers)


def vector(name: str, partner: str, shape: tuple[str | int, ...] = (1, 1, "C")) -> TensorSpec:
    return TensorSpec(name, shape, Role.ELEMENTWISE, partner=partner)


def norm(name: str, layers: str = "all") -> list[TensorSpec]:
    return [TensorSpec(f"{name}.{part}", ("C",), Role.NORM, layers=layers) for part in ("weight", "bias")]


GLOBAL = [
    TensorSpec("emb.weight", ("V", "C"), Role.EMBEDDING),
    *norm("ln_out"),
    TensorSpec("head.weight", ("V", "C"), Role.HEAD, input="head.x"),
]

STATE = TensorSpec("att.time_state", ("H", "N", "N"), Role.STATE, optional=True)
