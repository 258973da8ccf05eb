"""Slots: the states of several sequences side by side in memory, decoded in place.

    slots = model.slots(2)
    first, second = slots.add(), slots.add(state)
    logits = slots.forward({first: [12, 7, 99], second: [5]})      # {first: (vocab,), second: (vocab,)}
    logits = slots.forward({second: [31]})                         # one alone
    kept = slots.state(second)                                     # a copy, as `Model.forward` gives and takes it
    slots.free(first)                                              # the next `add` may take it
    packed = slots.park(second)                                    # the same for a session that waits: its state, in 8 bits a value
    second = slots.add(packed)                                     # and it goes on

Reading tokens into a slot changes its state in place; `Model.forward` makes a new state each time. So generate with slots. With many
slots, every weight is read from memory once for all of them.

`model.slots(count, state_bits=12)` keeps the matrices of states in 12 bits a value, rounded after each token (kernels/state_rows.py): they
take 41 % of the memory, and logits change a little. With 8 bits (kernels/state_rotated.py) they take 29 %, and logits change more
(docs/methods/state.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Architecture, Dims
from rwkvquant.errors import ConfigError
from rwkvquant.kernels import state_rotated, state_rows
from rwkvquant.kernels.resting import is_matrix
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Engine, Which, checked_tokens
from rwkvquant.runtime.states.files import FULL_BITS, PackedState, State

MAX_SLOTS = 1 << 16
STATE_BITS = (FULL_BITS, state_rows.BITS, state_rotated.BITS)


def room(architecture: Architecture, dims: Dims, count: int, state_bits: int) -> RecurrentState:
    """For `count` states of zeros, whose matrices have so many bits a value. For the errors see `Model.slots`."""
    if not 1 <= count <= MAX_SLOTS:
        raise ConfigError(f"a model has 1 to {MAX_SLOTS} slots at a time; got {count}")
    if state_bits not in STATE_BITS:
        raise ConfigError(
            f"states in slots have {', '.join(map(str, STATE_BITS[:-1]))} or {STATE_BITS[-1]} bits a value; got {state_bits!r}"
        )
    if state_bits == FULL_BITS:
        return architecture.zero_state(dims, count)
    if not any(map(is_matrix, architecture.state)) or dims.head_size % 2:
        raise ConfigError(
            f"states in {state_bits} bits are for models with matrices as states, and heads of an even size; "
            f"this one is {architecture.title} with heads of {dims.head_size}"
        )
    return state_rows.in_rows(architecture.zero_state(dims), state_bits).select([0] * count)


class Slots:
    """Made by `Model.slots`. A slot is a number. Its state is inside this object, and only `forward` changes it."""

    def __init__(self, engine: Engine, dims: Dims, recurrent: RecurrentState, initial: State, state_bits: int = FULL_BITS) -> None:
        """`recurrent` has room for every slot, its matrices in `state_bits`, and is used by this object only. `initial`: of a model that
        has read nothing."""
        self._engine, self._dims, self._recurrent, self._initial = engine, dims, recurrent, initial
        self.state_bits = state_bits  # of a value of the states' matrices, 32, 12 or 8
        self._used: set[int] = set()

    def __len__(self) -> int:
        """How many slots are in use."""
        return len(self._used)

    @property
    def count(self) -> int:
        """How many slots there are, used and free."""
        return self._recurrent.batch

    @property
    def nbytes(self) -> int:
        """Bytes of the states of all slots, used and free."""
        return self._recurrent.nbytes

    @property
    def step_tokens(self) -> int:
        """How many tokens `forward` reads in one step of the engine, in all sequences together. With more, it takes several."""
        return self._engine.step_tokens

    def add(self, state: State | PackedState | None = None) -> int:
        """Take a free slot, the lowest, and copy `state` into it (None: that of a model that has read nothing) -> the slot.

        Raises ConfigError if all are in use, FormatError for another model's state.
        """
        free = next((slot for slot in range(self.count) if slot not in self._used), None)
        if free is None:
            raise ConfigError(f"all {self.count} slots are in use; free one, or make more with model.slots(count)")
        if isinstance(state, PackedState):
            state = state.state()
        if state is not None:
            state.require(self._initial.arch, self._dims)
        recurrent = (state or self._initial).recurrent
        self._recurrent.put([free], recurrent if self.state_bits == FULL_BITS else state_rows.in_rows(recurrent, self.state_bits))
        self._used.add(free)
        return free

    def forward(self, tokens: Mapping[int, Sequence[int]], logits: Which = "last") -> dict[int, NDArray[np.float32]]:
        """Read tokens into some of the slots, side by side -> the logits of each, by slot: as `Model.forward` would give them.

        Logits are float32, (vocab,) for "last" and (tokens, vocab) for "all". Raises as `Model.forward` does, and ConfigError for a slot
        that is not in use; then no slot has changed.
        """
        slots = list(tokens)
        for slot in slots:
            self._require(slot)
        sequences = checked_tokens(list(tokens.values()), self._dims.vocab, logits)
        rows = self._engine.advance(sequences, self._recurrent, slots, logits)
        return {slot: row[-1] if logits == "last" else row for slot, row in zip(slots, rows, strict=True)}

    def state(self, slot: int) -> State:
        """A copy of what is in the slot. Raises ConfigError for one that is not in use."""
        self._require(slot)
        own = self._recurrent.select([slot])
        return State(self._initial.arch, own if self.state_bits == FULL_BITS else state_rows.in_full(own))

    def park(self, slot: int, bits: int = 8) -> PackedState:
        """The state in the slot, packed in 8 or 4 bits a value, and the slot is free: for a session that waits. `add` wakes it.

        Raises ConfigError for a slot that is not in use and for other bits, FormatError for a state that cannot be packed; then the
        slot stays in use.
        """
        packed = self.state(slot).packed(bits)
        self.free(slot)
        return packed

    def free(self, slot: int) -> None:
        """Make a slot free. Raises ConfigError for one that is not in use."""
        self._require(slot)
        self._used.remove(slot)

    def _require(self, slot: int) -> None:
        if slot not in self._used:
            raise ConfigError(f"slot {slot!r} is not in use; slots.add() gives one that is")
