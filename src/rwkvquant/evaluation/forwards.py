"""What computes a model's predictions when they are measured, by name. Torch is not needed here.

torch     the torch forward, with decoded weights and everything in float32 (the default)
native    the engine as it ships: int8 activations in groups of 64 for products in codes
int4      the torch forward with the inputs of these products rounded to 4 bits, one scale for 64 columns (models/few_bits.py);
          also int2 to int8, and int4/32 for groups of 32 columns
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rwkvquant.errors import ConfigError

TORCH, NATIVE = "torch", "native"
GROUP = 64  # columns with one scale, as in the engine
FEWEST, MOST = 2, 8  # bits
WIDEST = 1 << 20  # columns


@dataclass(frozen=True)
class Forward:
    """`bits` and `group` of rounded inputs, or None."""

    name: str
    bits: int | None = None
    group: int = GROUP


def forward_named(name: object) -> Forward:
    """Raises ConfigError for a name that is none of those above."""
    if name in (TORCH, NATIVE):
        return Forward(str(name))
    found = re.fullmatch(r"int(\d)(?:/(\d{1,7}))?", name) if isinstance(name, str) else None
    if found is not None:
        bits, group = int(found[1]), int(found[2] or GROUP)
        if FEWEST <= bits <= MOST and 1 <= group <= WIDEST:
            return Forward(found[0], bits, group)
    raise ConfigError(f"a forward is torch, native, or int2 to int8 such as int4 or int4/32 (groups of 32 columns); got {str(name)[:40]!r}")
