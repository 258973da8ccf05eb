"""The class of an architecture. Other code asks it, and neither spells the name of a tensor nor compares names of architectures."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from rwkvquant.architectures.base import QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.architectures.dims import SYMBOLS, Dims, factor
from rwkvquant.kernels.state import RecurrentState, StateArray

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Relative:
    """An architecture that is known but not supported. `mark` is a pattern that matches in one of its tensors' names.

    `title` is its name, or a function of the shapes. `newer` ones have the tensors of a supported one too, so they are tried first.
    """

    mark: str
    title: str | Callable[[Mapping[str, Shape]], str]
    newer: bool = False

    def title_in(self, shapes: Mapping[str, Shape]) -> str:
        return self.title if isinstance(self.title, str) else self.title(shapes)


@dataclass(frozen=True)
class SquaredRelu:
    """relu(W x)^2 in a block, the input of the product that `reads_nonnegative`.

    matrix  the name of W                gain, bias  of the vectors that the norm before it multiplies x by, and adds to it
    shift   of the vector that says how much of the previous token's input is mixed into x
    """

    matrix: str
    gain: str
    bias: str
    shift: str


@dataclass(frozen=True)
class Producer:
    """What a factor of each channel of a product's input can be moved into.

    With row j of each of `tensors` (element j of a vector) times c_j ** power, the input is x_j c_j in place of x_j, exactly, for any
    c_j > 0. Only products with this input notice: with column j of their matrices divided by c_j, the block computes the same.

    mixes: nothing at all stands between, so with M times `tensors` (a matrix each) the input is M x, for any square M.
    """

    tensors: tuple[str, ...]
    power: float = 1.0
    mixes: bool = False


@dataclass(frozen=True, eq=False)
class Architecture:
    """All that other code must know about one architecture.

    Its code is elsewhere: models/<name>.py has the forward, kernels/<name>.py the step, native/engine_<name>.cpp the fast engine.

    name         as in packed files, "rwkv7"                       title       as in messages, "RWKV-7 (x070)"
    table        the tensors of a block, in the order of a file    outside     the tensors before and after the blocks
    mark         a pattern that matches in its tensors' names,     relatives   known architectures to refuse by name
                 and in no older architecture's
    state        the recurrent state, as named arrays              anchors     tensors that every packed file must have, in every block
                                                                               if they are of the table; the embedding and heads too
    carry        an array (tokens, width) that the first block passes to all later ones, or None
    squared_relu what makes the input of the product that reads mostly zeros, or None
    producers    inputs of products that factors of channels can be moved out of -> the tensors that they can be moved into
    rules        functions of the sizes: each returns a message if the sizes break the rule, else None
    released     the sizes of published models, by name
    usual        of these sizes, the optional tensors that released models have, by their names in the table
    others       a pattern of the names that a checkpoint may have besides the table's: they are carried along as they are
    tasks        what its heads are for -> a tensor that only this head has; {} for text
    mix_norms    where norms follow the mixes of a block: these norms, in order -> the vector that multiplies their output
    """

    name: str
    title: str
    table: tuple[TensorSpec, ...]
    outside: tuple[TensorSpec, ...]
    state: tuple[StateArray, ...]
    mark: str
    anchors: tuple[str, ...]
    modality: str = "text"
    block: str = "blocks."  # the text before a block's number
    carry: str | None = None
    squared_relu: SquaredRelu | None = None
    producers: Mapping[str, Producer] = field(default_factory=dict)
    relatives: tuple[Relative, ...] = ()
    rules: tuple[Callable[[Dims], str | None], ...] = ()
    released: Mapping[str, Dims] = field(default_factory=dict)
    usual: Callable[[Dims], tuple[str, ...]] = lambda dims: ()
    others: str = r"(?!)"  # no name
    tasks: Mapping[str, str] = field(default_factory=dict)
    mix_norms: Mapping[str, str] = field(default_factory=dict)

    def specs(self, layers: int) -> Iterator[tuple[str, TensorSpec, int | None]]:
        """(full name, spec, layer or None) of every tensor that a model may have: embedding, blocks, tensors after the blocks."""
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
        """`specs` without the tensors that the forward never uses."""
        return (each for each in self.specs(layers) if not self.is_unused(each[1], each[2]))

    @staticmethod
    def is_unused(spec: TensorSpec, layer: int | None) -> bool:
        """True for tensors such as v0, v1, v2 of RWKV-7's first layer. The forward never uses them; many checkpoints do not have them."""
        return spec.layers == "later" and layer == 0

    @staticmethod
    def owner(spec: TensorSpec, layer: int | None) -> int | None:
        """The block that uses a tensor, or None. A tensor of the first layer only (ln0) has a block's name, but is used before it: None."""
        return None if spec.layers == "first" else layer

    def full_name(self, layer: int | str, key: str) -> str:
        """(3, "att.key.weight") -> "blocks.3.att.key.weight" """
        return f"{self.block}{layer}.{key}"

    def split(self, name: str) -> tuple[str, str]:
        """The inverse of `full_name`: "blocks.3.att.w1" -> ("3", "att.w1"); "emb.weight" -> ("", "emb.weight")"""
        match = re.fullmatch(re.escape(self.block) + r"([0-9]{1,5})\.(.+)", name)
        return (match[1], match[2]) if match else ("", name)

    @cached_property
    def by_key(self) -> dict[str, TensorSpec]:
        """Every spec by its name inside a block, or its whole name."""
        return {spec.name: spec for spec in (*self.outside, *self.table)}

    def carried(self, names: Iterable[str]) -> frozenset[str]:
        """Those names that the model does not use, and that are carried along: `others`, and all of a head that is not exactly ours."""
        names = set(names)
        carried = {name for name in names if self.split(name)[0] == "" and name not in self.by_key and re.fullmatch(self.others, name)}
        for group in {spec.group for spec in self.outside if spec.group}:
            there = {name for name in names if name.startswith(group)}
            if there != {spec.name for spec in self.outside if spec.group == group}:
                carried |= there
        return frozenset(carried)

    @cached_property
    def embedding(self) -> TensorSpec:
        return next(spec for spec in self.outside if spec.role is Role.EMBEDDING)

    @cached_property
    def heads(self) -> tuple[TensorSpec, ...]:
        """The output matrices of the model. A text model has one."""
        return tuple(spec for spec in self.outside if spec.role is Role.HEAD)

    @cached_property
    def matrix_keys(self) -> frozenset[str]:
        """The names of projections and LoRA factors inside a block; each slice of a sliced tensor has its own name."""
        return frozenset(part for spec in self.table if spec.role in QUANTIZED_ROLES for part in spec.parts)

    @cached_property
    def product_inputs(self) -> dict[str, bool]:
        """The input of each product of a block -> True if it comes in slices, one for each matrix of a sliced tensor."""
        return {spec.input: spec.slices for spec in self.table if spec.input is not None}

    @cached_property
    def input_parts(self) -> tuple[str, ...]:
        """The names of `product_inputs`, with "<name>.<index>" for each slice of those that come in slices."""
        parts = dict[str, None]()
        for spec in self.table:
            if spec.input is not None:
                parts |= dict.fromkeys([f"{spec.input}.{i}" for i in range(len(spec.parts))] if spec.slices else [spec.input])
        return tuple(parts)

    @cached_property
    def residual_writers(self) -> dict[str, str]:
        """The products of a block whose outputs are added to the residual stream -> their inputs."""
        return {spec.name: spec.input for spec in self.table if spec.writes_residual and spec.input is not None}

    def reads_nonnegative(self, name: str, names: Container[str]) -> bool:
        """Whether the product with this matrix, "blocks.3.ffn.value.weight", has an input that is never negative.

        `names`: all tensors of the model, as one of them may make it negative.
        """
        block, key = self.split(name)
        spec = self.by_key.get(key)
        if spec is None or not spec.nonnegative_input:
            return False
        return not spec.negative_with or self.full_name(block, spec.negative_with) not in names

    def reads_mostly_zeros(self, name: str, names: Container[str]) -> bool:
        """Whether this input is mostly zero as well, so that a matrix stored by columns saves time."""
        spec = self.by_key.get(self.split(name)[1])
        return spec is not None and spec.mostly_zero and self.reads_nonnegative(name, names)

    def text_only(self) -> str:
        """What a command for text says of a model for images, after the file's name."""
        return (
            f"{self.title} is a model for images, and this works with text models only; for images there are "
            "`rwkvquant classify`, `segment` and `detect` (docs/methods/vision.md)"
        )

    def images_only(self) -> str:
        """What a command for images says of a text model, after the file's name."""
        return (
            f"{self.title} is a text model, and this works with models for images only; for text there are `rwkvquant generate` and `chat`"
        )

    @property
    def grows(self) -> bool:
        """Whether its state has an entry for each token that was read: a cache of keys and values."""
        return any(array.grows for array in self.state)

    @property
    def last_product(self) -> str:
        """The last product of a block. Calibration records its input; its output goes to the next block."""
        return list(self.residual_writers)[-1]

    def task_in(self, names: Iterable[str]) -> str | None:
        """What the head of a model with these tensors is for, "classify". None for text, and without a head that the forward has."""
        names = set(names)
        there = names - self.carried(names)
        return next((task for task, head in self.tasks.items() if head in there), None)

    @cached_property
    def optional_symbols(self) -> frozenset[str]:
        """Those of `symbols` that only optional tensors have: their size may be 0."""
        needed = {factor(axis)[1] for spec in self.by_key.values() if not spec.optional for axis in spec.shape if isinstance(axis, str)}
        return frozenset(self.symbols) - needed - {"L"} - {axis for array in self.state for axis in array.axes}

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """Those of SYMBOLS that its tensors and its state have, and L. Packed files must give these sizes."""
        axes = {factor(axis)[1] for spec in self.by_key.values() for axis in spec.shape if isinstance(axis, str)}
        axes |= {axis for array in self.state for axis in array.axes}
        return tuple(symbol for symbol in SYMBOLS if symbol in axes | {"L"})

    @cached_property
    def ranks(self) -> tuple[str, ...]:
        """The symbols of its tensors that are not in SYMBOLS, in the order of the table."""
        axes = (factor(axis)[1] for spec in self.by_key.values() for axis in spec.shape if isinstance(axis, str))
        return tuple(dict.fromkeys(symbol for symbol in axes if symbol not in SYMBOLS))

    def zero_state(self, dims: Dims, batch: int = 1) -> RecurrentState:
        """The state of `batch` sequences before their first token."""
        return RecurrentState.zeros(self.state, dims.by_symbol(), batch)

    def is_marked_in(self, names: Iterable[str]) -> bool:
        return any(re.search(self.mark, name) for name in names)

    def broken_rule(self, dims: Dims) -> str | None:
        """The message of the first rule that the sizes break, or None."""
        return next((sentence for rule in self.rules if (sentence := rule(dims)) is not None), None)
