"""One architecture as the rest of the project sees it: nobody else spells the name of a tensor, or asks which architecture this is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rwkvquant.architectures.base import QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.architectures.dims import SYMBOLS, Dims, factor
from rwkvquant.kernels.state import RecurrentState, StateArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Relative:
    """An architecture that is known and not supported. `mark` is a pattern that some tensor's name holds.

    `title` may ask the shapes. `newer` ones have the tensors of supported architectures, so they are asked for first.
    """

    mark: str
    title: str | Callable[[Mapping[str, Shape]], str]
    newer: bool = False

    def title_in(self, shapes: Mapping[str, Shape]) -> str:
        return self.title if isinstance(self.title, str) else self.title(shapes)


@dataclass(frozen=True, eq=False)
class Architecture:
    """`name` "rwkv7" is what files say; models/<name>.py has the forward, kernels/<name>.py the step, native/engine_<name>.cpp the engine.

    table        the tensors of a block, in the order of a file    outside     those before and after the blocks
    mark         a pattern that only names of its tensors hold     relatives   what to refuse by its title
    state        the recurrent state as named arrays               anchors     tensors of a block that a packed file must have
    carry        what the first block hands to all later ones, (tokens, width), or None
    rules        of its sizes: each gives a sentence's beginning if the sizes break it
    """

    name: str
    title: str
    table: tuple[TensorSpec, ...]
    outside: tuple[TensorSpec, ...]
    state: tuple[StateArray, ...]
    mark: str
    anchors: tuple[str, ...]
    modality: str = "text"
    block: str = "blocks."  # stands before a block's number
    carry: str | None = None
    relatives: tuple[Relative, ...] = ()
    rules: tuple[Callable[[Dims], str | None], ...] = ()
    released: Mapping[str, Dims] = field(default_factory=dict)

    def specs(self, layers: int) -> Iterator[tuple[str, TensorSpec, int | None]]:
        """(full name, spec, layer or None) of every tensor that a model may have: embedding, blocks, and what stands after them."""
        before = [spec for spec in self.outside if spec.role is Role.EMBEDDING]
        for spec in before:
            yield spec.name, spec, None
        for layer in range(layers):
            for spec in self.table:
                if spec.layers != "first" or layer == 0:
                    yield self.full_name(layer, spec.name), spec, layer
        for spec in self.outside:
            if spec not in before:
                yield spec.name, spec, None

    def used(self, layers: int) -> Iterator[tuple[str, TensorSpec, int | None]]:
        """`specs` without what the forward never touches."""
        return (each for each in self.specs(layers) if not self.is_unused(each[1], each[2]))

    @staticmethod
    def is_unused(spec: TensorSpec, layer: int | None) -> bool:
        """Such as v0, v1, v2 of RWKV-7's first layer: the forward never touches them, so many checkpoints leave them out."""
        return spec.layers == "later" and layer == 0

    @staticmethod
    def owner(spec: TensorSpec, layer: int | None) -> int | None:
        """The block that works with a tensor. What only the first layer has (ln0) stands in its names, but works before it: None."""
        return None if spec.layers == "first" else layer

    def full_name(self, layer: int | str, key: str) -> str:
        """(3, "att.key.weight") -> "blocks.3.att.key.weight" """
        return f"{self.block}{layer}.{key}"

    def split(self, name: str) -> tuple[str, str]:
        """ "blocks.3.att.w1" -> ("3", "att.w1"); "emb.weight" -> ("", "emb.weight")"""
        match = re.fullmatch(re.escape(self.block) + r"([0-9]{1,5})\.(.+)", name)
        return (match[1], match[2]) if match else ("", name)

    @cached_property
    def by_key(self) -> dict[str, TensorSpec]:
        """Every spec by its name: inside a block, or the whole one."""
        return {spec.name: spec for spec in (*self.outside, *self.table)}

    @cached_property
    def embedding(self) -> TensorSpec:
        return next(spec for spec in self.outside if spec.role is Role.EMBEDDING)

    @cached_property
    def heads(self) -> tuple[TensorSpec, ...]:
        """The outputs of the model; text has one."""
        return tuple(spec for spec in self.outside if spec.role is Role.HEAD)

    @cached_property
    def matrix_keys(self) -> frozenset[str]:
        """Projections and LoRA factors of a block by their names in it, slices on their own."""
        return frozenset(part for spec in self.table if spec.role in QUANTIZED_ROLES for part in spec.parts)

    @cached_property
    def product_inputs(self) -> dict[str, bool]:
        """The activations that feed a block's products -> whether they come in slices, one for each matrix of a sliced tensor."""
        return {spec.input: spec.slices for spec in self.table if spec.input is not None}

    @cached_property
    def residual_writers(self) -> dict[str, str]:
        """The products of a block that are added to the residual stream -> their inputs."""
        return {spec.name: spec.input for spec in self.table if spec.writes_residual and spec.input is not None}

    @property
    def last_product(self) -> str:
        """Of a block: its input is heard by calibration, its output goes to the next block."""
        return list(self.residual_writers)[-1]

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Those of SYMBOLS that its tensors and its state have; files must tell these sizes. L is one of them."""
        found = {factor(axis)[1] for spec in self.by_key.values() for axis in spec.shape if isinstance(axis, str)}
        found |= {axis for array in self.state for axis in array.axes}
        return tuple(symbol for symbol in SYMBOLS if symbol in found | {"L"})

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """The other symbols of its tensors, in the order of the table."""
        axes = (factor(axis)[1] for spec in self.by_key.values() for axis in spec.shape if isinstance(axis, str))
        return tuple(dict.fromkeys(symbol for symbol in axes if symbol not in SYMBOLS))

    def zero_state(self, dims: Dims, batch: int = 1) -> RecurrentState:
        """Of `batch` sequences that have read nothing."""
        return RecurrentState.zeros(self.state, dims.by_symbol(), batch)

    def is_marked_in(self, names: Iterable[str]) -> bool:
        return any(re.search(self.mark, name) for name in names)

    def broken_rule(self, dims: Dims) -> str | None:
        """A sentence about sizes that cannot be, or None."""
        return next((sentence for rule in self.rules if (sentence := rule(dims)) is not None), None)
