"""What llama.cpp's GGUF files have for each architecture besides the tensors of names.py: metadata, and second names of tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class GgufTable:
    """ranks: key of the metadata -> symbols of a rank; the first that a model has counts. constants: metadata that is always the same.

    copies: (pattern, replacement) of names. The loader asks for the tensor of the new name too, and never uses it: it is written as a
    copy, and not read. rescales: whether the file may say that weights were halved every so many layers. rotary: a transformer with RoPE.
    """

    ranks: Mapping[str, tuple[str, ...]]
    constants: Mapping[str, int] = field(default_factory=dict)
    copies: tuple[str, str] | None = None
    rescales: bool = False
    rotary: bool = False

    def copy_of(self, name: str) -> str | None:
        """The second name under which the tensor `name` is written, if it has one."""
        if self.copies is None or re.fullmatch(self.copies[0], name) is None:
            return None
        return re.sub(*self.copies, name)


GGUF_TABLES: dict[str, GgufTable] = {
    "rwkv6": GgufTable(
        ranks={"time_mix_extra_dim": ("Rm",), "time_decay_extra_dim": ("Rd",)},
        constants={"rescale_every_n_layers": 0},  # halving every six layers is for sums in 16 bits
        rescales=True,
    ),
    "rwkv7": GgufTable(
        ranks={
            "attention.decay_lora_rank": ("Rw",),
            "attention.iclr_lora_rank": ("Ra",),
            "attention.value_residual_mix_lora_rank": ("Rv", "Ra"),  # a model of one layer has no Rv
            "attention.gate_lora_rank": ("Rg",),
        },
        copies=(r"blk\.0\.time_mix_a([012])\.weight", r"blk.0.time_mix_v\1.weight"),
    ),
    "llama": GgufTable(ranks={}, rotary=True),
}
