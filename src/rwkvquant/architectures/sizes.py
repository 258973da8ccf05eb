"""The sizes of a checkpoint, from the shapes of its tensors.

`read_sizes` goes through the architecture's table. The first tensor with a symbol in its shape gives the symbol its size, and every
other tensor must agree. So a checkpoint that passes has every tensor of the table, in the right shape, and no others. (The names that
an architecture carries along are left out before.)
"""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.architectures.architecture import Architecture, Shape
from rwkvquant.architectures.base import Role, TensorSpec
from rwkvquant.architectures.dims import SYMBOLS, Dims, factor
from rwkvquant.errors import CheckpointError


def read_sizes(architecture: Architecture, shapes: Mapping[str, Shape]) -> Dims:
    """All sizes of a checkpoint. Raises CheckpointError unless its tensors are exactly those of the table."""
    inside = [architecture.split(name) for name in shapes]
    layers = 1 + max((int(block) for block, _ in inside if block), default=0)
    states = {spec.name for spec in architecture.table if spec.role is Role.STATE}
    with_state = any(key in states for _, key in inside)
    sizes = Sizes()
    unused: list[tuple[str, TensorSpec]] = []
    expected = set()
    for name, spec, layer in architecture.specs(layers):
        if spec.role is Role.STATE and not with_state:
            continue
        expected.add(name)
        if architecture.is_unused(spec, layer):  # checked at the end: they must not decide the rank of others
            unused.append((name, spec))
        elif name in shapes:
            sizes.match(name, spec, shapes[name])
        elif spec.role is Role.STATE:
            kind = spec.name.rpartition(".")[2]
            raise CheckpointError(f"a tuned state ({kind}) has a tensor for every block; the checkpoint lacks {name}")
        elif not spec.optional:
            raise CheckpointError(f"the checkpoint lacks {name}, which every {architecture.title} of {layers} layers has")
    dims = sizes.dims(layers, architecture.ranks)
    for name, spec in unused:
        if name in shapes:
            sizes.match(name, spec, shapes[name])
    for name in shapes:
        if name not in expected:
            raise CheckpointError(f"{architecture.title} has no tensor {name}; merge LoRA adapters and remove extras first")
    if broken := architecture.broken_rule(dims):
        raise CheckpointError(broken)
    return dims


class Sizes:
    """`known`: symbol -> size. `given_by`: symbol -> the tensor that gave the size."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.given_by: dict[str, str] = {}

    def match(self, name: str, spec: TensorSpec, shape: Shape) -> None:
        """Take new sizes from one tensor. Raises CheckpointError if it contradicts the others."""
        fits = len(shape) == len(spec.shape)
        for axis, size in zip(spec.shape, shape, strict=False):
            if isinstance(axis, int):
                fits = fits and size == axis
                continue
            count, symbol = factor(axis)
            if fits and symbol not in self.known:
                self.known[symbol], self.given_by[symbol] = size // count, name
            fits = fits and size == count * self.known.get(symbol, -1)
        if not fits:
            raise CheckpointError(f"{name} must have the shape {self._expected(name, spec)}; got {_written(shape)}")

    def dims(self, layers: int, ranks: tuple[str, ...]) -> Dims:
        sizes = {symbol: self.known[symbol] for symbol in (*SYMBOLS, *ranks) if symbol in self.known}
        return Dims.of_symbols(sizes | {"L": layers})

    def _expected(self, name: str, spec: TensorSpec) -> str:
        """The shape in symbols, and the known sizes: "(C, Rw), C = 64 as in emb.weight"."""
        symbols = [factor(part)[1] for part in spec.shape if isinstance(part, str)]
        from_others = [s for s in dict.fromkeys(symbols) if self.given_by.get(s, name) != name]
        return _written(spec.shape) + ", ".join([""] + [f"{s} = {self.known[s]} as in {self.given_by[s]}" for s in from_others])


def _written(shape: tuple[int | str, ...]) -> str:
    return f"({', '.join(map(str, shape))})"
