"""The lines of an architecture's table: every tensor of a checkpoint, its shape, and what quantisation must know about it.

Shapes are those of the checkpoint, in symbols. The sizes of the symbols are read from the tensors (sizes.py):

    C  width        F  hidden width of the channel mix     V  vocabulary     H  heads     N  head size     L  layers
    Rw Ra Rv Rg     ranks of RWKV-7's LoRA pairs           Rm Rd             ranks of RWKV-6's LoRA pairs
    Q  rows of the queries                             KV  rows of the keys             (LLaMA)
    G  positions    P  pixels a side of a patch            I  channels of an image              K  classes     (models for images)

`input` names the activation that is the input of a product. The forward in models/ reports it to a tap under that name, and
calibration keeps one Hessian for it. `partner` names the activation that an element-wise vector is multiplied with (RWKVQuant,
arXiv:2505.03803, section 3.3).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from rwkvquant.architectures.dims import Dims, sizes_of


class Role(StrEnum):
    PROJECTION = "projection"
    LORA = "lora"
    ELEMENTWISE = "elementwise"
    NORM = "norm"
    BIAS = "bias"  # added, not multiplied: w0, a0, v0, time_decay, position embeddings; and time_faaaa, the bonus of the current token
    EMBEDDING = "embedding"
    HEAD = "head"
    STATE = "state"  # a tuned initial state
    SETTING = "setting"  # a number of the forward that other tools keep in a config: an epsilon, the frequencies of RoPE
    CARRIED = "carried"  # of a part that the forward does not have, such as a head that is not ours: kept in the file as it is


QUANTIZED_ROLES = (Role.PROJECTION, Role.LORA)
MATRIX_ROLES = (*QUANTIZED_ROLES, Role.EMBEDDING, Role.HEAD)  # a packed file keeps their shape; it may keep the others flat


@dataclass(frozen=True)
class TensorSpec:
    """One line of the table. `name` is the name inside its block ("att.key.weight"), or the whole name ("head.weight")."""

    name: str
    shape: tuple[str | int, ...]
    role: Role
    transposed: bool = False  # stored (in, out): the product is x @ W, and the packed file keeps (out, in)
    slices: bool = False  # the first axis counts separate matrices, each quantised as "<name>.<index>"
    input: str | None = None
    partner: str | None = None
    layers: str = "all"  # "all" | "first" | "later" (required in later layers, optional and unused in the first)
    optional: bool = False
    writes_residual: bool = False  # its product is added to the residual stream
    nonnegative_input: bool = False  # its input is never negative, a squared ReLU
    mostly_zero: bool = False  # and so much of it is zero that a product gains by skipping zeros
    negative_with: str = ""  # but not in a block that has this tensor, such as a norm after the squared ReLU
    starts: str | None = None  # only for Role.STATE: the array of the recurrent state that begins with these values
    kernel: bool = False  # of a convolution, (out, in, height, width): it is used and packed as the matrix (out, in * height * width)
    group: str = ""  # a prefix of names: the tensor is ours only if the checkpoint's tensors with it are those of the table

    @property
    def parts(self) -> list[str]:
        """The names under which it is quantised and packed: "<name>.0", "<name>.1", ... for a sliced tensor, else its name."""
        return [f"{self.name}.{index}" for index in range(int(self.shape[0]))] if self.slices else [self.name]

    def forward_shape(self, dims: Dims) -> tuple[int, ...]:
        """The shape that the forward uses: vectors (C,), matrices (out, in), sliced tensors (slices, out, in), by heads (H, N), (H, N, N).

        Raises FormatError if `dims` lacks a rank that the tensor has.
        """
        shape = sizes_of(self.shape, dims, self.name)
        if self.kernel:
            return shape[0], math.prod(shape[1:])
        if self.shape[:-1] == (1, 1):
            return shape[2:]
        return (*shape[:-2], shape[-1], shape[-2]) if self.transposed else shape

    def part_shape(self, dims: Dims) -> tuple[int, ...]:
        """`forward_shape` of each of `parts`."""
        shape = self.forward_shape(dims)
        return shape[1:] if self.slices else shape


def projection(name: str, shape: tuple[str, str], fed_by: str, **more: Any) -> TensorSpec:
    return TensorSpec(name, shape, Role.PROJECTION, input=fed_by, **more)


def lora(name: str, shape: tuple[str, str], fed_by: str, layers: str = "all") -> TensorSpec:
    return TensorSpec(name, shape, Role.LORA, transposed=True, input=fed_by, layers=layers)


def vector(name: str, partner: str, shape: tuple[str | int, ...] = (1, 1, "C")) -> TensorSpec:
    return TensorSpec(name, shape, Role.ELEMENTWISE, partner=partner)


def norm(name: str, layers: str = "all") -> list[TensorSpec]:
    return [TensorSpec(f"{name}.{part}", ("C",), Role.NORM, layers=layers) for part in ("weight", "bias")]
