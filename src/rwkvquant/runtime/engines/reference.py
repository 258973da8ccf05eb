"""The forward in NumPy: float32 from end to end, one token at a time.

The native engine is tested against it. It runs models where the native module is missing. Matrices are
decoded once, 4 bytes a weight, so it is slow and for small models.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module

import numpy as np

from rwkvquant.architectures import architecture
from rwkvquant.errors import ConfigError
from rwkvquant.kernels import state_rows
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Array, Which
from rwkvquant.runtime.weights import Weights

Keep = Callable[[RecurrentState, RecurrentState], RecurrentState]
Step = Callable[[Mapping[str, Array], Array, RecurrentState], tuple[Array, RecurrentState]]


class ReferenceEngine:
    """Reads tokens into states."""

    name = "reference"
    threads = 1
    tuning = None
    step_tokens = 64

    def __init__(self, weights: Weights) -> None:
        weights = weights.plain()
        self._require_whole = weights.require_whole
        self._step = step_of(weights.arch)
        self._embed = weights.embedding.rows
        tensors = weights.vectors | {name: packed.decode() for name, packed in weights.matrices.items()}
        for name, spec, _ in architecture(weights.arch).used(weights.dims.layers):
            if spec.slices:
                tensors[name] = np.stack([tensors.pop(f"{name}.{index}") for index in range(len(spec.parts))])
        self._tensors = tensors

    def advance(self, sequences: Sequence[Sequence[int]], state: RecurrentState, slots: Sequence[int], which: Which) -> list[Array]:
        """See base.py."""
        own = state.select(slots)
        bits = next((state_rows.bits_of(values) for values in own.arrays if state_rows.is_rows(values)), None)
        if bits is None:
            rows, after = self._read(sequences, own, which, as_it_is)
            state.put(slots, after)
        else:
            rows, after = self._read(sequences, state_rows.in_full(own), which, partial(rounded, bits))
            state.put(slots, state_rows.in_rows(after, bits))
        return rows

    def read(self, sequences: Sequence[Sequence[int]], state: RecurrentState, which: Which) -> tuple[list[Array], RecurrentState]:
        """See base.py."""
        return self._read(sequences, state, which, as_it_is)

    def _read(
        self, sequences: Sequence[Sequence[int]], state: RecurrentState, which: Which, keep: Keep
    ) -> tuple[list[Array], RecurrentState]:
        """`keep`: the states before and after a token -> what is left of the latter."""
        self._require_whole()
        rows: list[list[Array]] = [[] for _ in sequences]
        after: list[RecurrentState | None] = [None] * len(sequences)
        running = list(range(len(sequences)))
        for position in range(max(map(len, sequences))):
            still = [slot for slot, i in enumerate(running) if position < len(sequences[i])]
            if len(still) < len(running):
                state, running = state.select(still), [running[slot] for slot in still]
            logits, found = self._step(self._tensors, self._embed([int(sequences[i][position]) for i in running]), state)
            state = keep(state, found)
            for slot, i in enumerate(running):
                ends = position == len(sequences[i]) - 1
                if ends or which == "all":
                    rows[i].append(logits[slot])
                if ends:
                    after[i] = state.select([slot])
        return [np.stack(row) for row in rows], RecurrentState.side_by_side([part for part in after if part is not None])


def as_it_is(before: RecurrentState, after: RecurrentState) -> RecurrentState:
    return after


def rounded(bits: int, before: RecurrentState, after: RecurrentState) -> RecurrentState:
    """`before` was rounded too, so it is packed to the rows that it came from."""
    return state_rows.in_full(state_rows.in_rows(after, bits, state_rows.in_rows(before, bits)))


def step_of(arch: str) -> Step:
    """`step` of kernels/<arch>.py. Raises ConfigError for an architecture without one."""
    try:
        module = import_module(f"rwkvquant.kernels.{arch}")
    except ModuleNotFoundError as error:
        if error.name != f"rwkvquant.kernels.{arch}":
            raise
        raise ConfigError(f"models of {arch} can be read and packed, but not run: there is no kernels/{arch}.py") from None
    if not hasattr(module, "step"):
        raise ConfigError(f"models of {arch} do not read tokens: kernels/{arch}.py has no step")
    step: Step = module.step
    return step
