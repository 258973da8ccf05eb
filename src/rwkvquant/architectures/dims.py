"""All sizes of a model, and shapes written in symbols such as "C"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rwkvquant.errors import FormatError

SYMBOLS = {  # symbol -> field of Dims
    **{"L": "layers", "C": "width", "F": "hidden", "V": "vocab", "H": "heads", "N": "head_size"},
    **{"G": "positions", "P": "patch", "I": "channels", "K": "classes"},
}


@dataclass(frozen=True)
class Dims:
    """All sizes of a model. A size that its architecture does not have is 0.

    `ranks`: the ranks of its LoRA pairs, by their symbols, {"Rw": 64, ...}.
    Of a model for images: `positions` of its position embedding, `patch` pixels a side, `channels` of an image, `classes`.
    """

    layers: int
    width: int
    hidden: int = 0
    vocab: int = 0
    heads: int = 0
    head_size: int = 0
    ranks: dict[str, int] = field(default_factory=dict)
    positions: int = 0
    patch: int = 0
    channels: int = 0
    classes: int = 0

    @classmethod
    def of_symbols(cls, sizes: Mapping[str, int]) -> Dims:
        """The inverse of `by_symbol`. Sizes that are not in `sizes` are 0."""
        known = {name: sizes.get(symbol, 0) for symbol, name in SYMBOLS.items()}
        return cls(**known, ranks={symbol: size for symbol, size in sizes.items() if symbol not in SYMBOLS})

    def by_symbol(self) -> dict[str, int]:
        """{"L": layers, "C": width, ..., "Rw": 64, ...}"""
        return {symbol: getattr(self, name) for symbol, name in SYMBOLS.items()} | self.ranks


def factor(symbol: str) -> tuple[int, str]:
    """ "5*Rm" -> (5, "Rm"); "C" -> (1, "C")"""
    count, star, name = symbol.partition("*")
    return (int(count), name) if star else (1, symbol)


def sizes_of(axes: tuple[str | int, ...], dims: Dims, name: str) -> tuple[int, ...]:
    """Axes such as ("C", "5*Rm") -> numbers. Raises FormatError if `dims` lacks a rank of the tensor `name`."""
    known, shape = dims.by_symbol(), []
    for axis in axes:
        count, symbol = (axis, "") if isinstance(axis, int) else factor(axis)
        if symbol and symbol not in known:
            raise FormatError(f"the model's sizes lack the rank '{symbol}' of {name}")
        shape.append(count * known[symbol] if symbol else count)
    return tuple(shape)
