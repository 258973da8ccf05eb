"""The forward in NumPy: float32 from end to end, one token at a time. It judges the native engine, and runs where that is missing.

Matrices are decoded once, 4 bytes a weight: right, slow, and for small models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rwkvquant.codecs import DenseTensor, QTensor, UniformTensor
from rwkvquant.kernels import rwkv6, rwkv7
from rwkvquant.kernels.state import State
from rwkvquant.runtime.engines.base import Array, Which
from rwkvquant.runtime.states.arrays import put
from rwkvquant.runtime.weights import Weights

STEPS = {"rwkv6": rwkv6.step, "rwkv7": rwkv7.step}
SLICES = 5  # of att.time_maa_w2


class ReferenceEngine:
    """Reads tokens into states."""

    name = "reference"
    threads = 1

    def __init__(self, weights: Weights) -> None:
        self._require_whole = weights.require_whole
        self._step = STEPS[weights.arch]
        self._embed = row_reader(weights.embedding.qtensor())
        tensors = weights.vectors | {name: stored.qtensor().decode() for name, stored in weights.matrices.items()}
        for name in [name.removesuffix(".0") for name in tensors if name.endswith("time_maa_w2.0")]:
            tensors[name] = np.stack([tensors.pop(f"{name}.{index}") for index in range(SLICES)])
        self._tensors = tensors

    def advance(self, sequences: Sequence[Sequence[int]], state: State, slots: Sequence[int], which: Which) -> list[Array]:
        """See base.py."""
        rows, after = self.read(sequences, state.select(slots), which)
        put(state, slots, after)
        return rows

    def read(self, sequences: Sequence[Sequence[int]], state: State, which: Which) -> tuple[list[Array], State]:
        """See base.py."""
        self._require_whole()
        rows: list[list[Array]] = [[] for _ in sequences]
        after: list[State | None] = [None] * len(sequences)
        running = list(range(len(sequences)))
        for position in range(max(map(len, sequences))):
            still = [slot for slot, i in enumerate(running) if position < len(sequences[i])]
            if len(still) < len(running):
                state, running = state.select(still), [running[slot] for slot in still]
            logits, state = self._step(self._tensors, self._embed([int(sequences[i][position]) for i in running]), state)
            for slot, i in enumerate(running):
                ends = position == len(sequences[i]) - 1
                if ends or which == "all":
                    rows[i].append(logits[slot])
                if ends:
                    after[i] = state.select([slot])
        ends_of = [part for part in after if part is not None]
        joined = State(*(np.concatenate([getattr(part, f.name) for part in ends_of], axis=1) for f in dataclasses.fields(State)))
        return [np.stack(row) for row in rows], joined


def row_reader(tensor: QTensor) -> Callable[[Sequence[int]], Array]:
    """ids -> their decoded rows (len(ids), cols); the other rows stay as they are."""
    if isinstance(tensor, UniformTensor):
        arrays: dict[str, Any] = {f.name: v for f in dataclasses.fields(tensor) if isinstance(v := getattr(tensor, f.name), np.ndarray)}
        return lambda ids: dataclasses.replace(tensor, **{name: array[list(ids)] for name, array in arrays.items()}).decode()
    if isinstance(tensor, DenseTensor):
        values = tensor.values
        return lambda ids: values[list(ids)].astype(np.float32)
    decoded = tensor.decode()  # rows share codebooks; nobody stores an embedding like that, but the format allows it
    return lambda ids: decoded[list(ids)]
