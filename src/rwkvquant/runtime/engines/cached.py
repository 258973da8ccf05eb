"""The engine of models whose state grows: native products, and attention in plain NumPy (kernels/llama.py).

Gives up: speed. Sequences are read one after the other on one thread, and every step decodes the whole cache. It is for studies.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np

from rwkvquant.codecs.native import multiply
from rwkvquant.errors import FormatError
from rwkvquant.kernels import dispatch
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Array, Which
from rwkvquant.runtime.states.caches import Caches
from rwkvquant.runtime.weights import Weights


class CachedEngine:
    """Reads tokens into caches."""

    threads = 1
    tuning = None
    step_tokens = 64

    def __init__(self, weights: Weights, activations: str = "int8") -> None:
        """Raises FormatError for weights that do not fit together."""
        self._read_tokens = import_module(f"rwkvquant.kernels.{weights.arch}").read
        self._require_whole, self._embed = weights.require_whole, weights.embedding.rows
        self._transforms = weights.transforms
        self._last: tuple[Array | None, object, Array] = None, None, np.empty(0, np.float32)
        self._matrices, self._vectors, self._layers = weights.matrices, weights.vectors, weights.dims.layers
        self._native = dispatch.native_module()
        self.name = "reference" if self._native is None else str(self._native.isa())
        self._int8 = activations == "int8"
        self._held: dict[str, Any] = {}
        if self._native is not None:
            for name, packed in weights.matrices.items():
                try:
                    self._held[name] = packed.native(self._native)
                except ValueError as error:
                    raise FormatError(f"{error} ({name})") from None

    def read(self, sequences: Sequence[Sequence[int]], state: RecurrentState, which: Which) -> tuple[list[Array], RecurrentState]:
        """See base.py. `state` has caches (states/caches.py)."""
        after = state.copy()
        return self.advance(sequences, after, range(len(sequences)), which), after

    def advance(self, sequences: Sequence[Sequence[int]], state: RecurrentState, slots: Sequence[int], which: Which) -> list[Array]:
        """See base.py."""
        assert isinstance(state, Caches)
        self._require_whole()
        return [
            self._read_tokens(self._product, self._vectors, self._embed(list(tokens)), state.caches[slot], self._layers, which == "last")
            for tokens, slot in zip(sequences, slots, strict=True)
        ]

    def _input(self, name: str, x: Array) -> Array:
        """x, or T x for a matrix with a transform. The last T x is kept, because products with one input follow one another."""
        if name not in self._transforms:
            return x
        applied = self._transforms[name]
        before, kind, y = self._last
        if before is not x or kind != applied.key:
            y = applied.activations(x)
            self._last = x, applied.key, y
        return y

    def _product(self, name: str, x: Array) -> Array:
        x = self._input(name, x)
        packed, held = self._matrices[name], self._held.get(name)
        if self._native is None or held is None:  # the definition of the product, slowly
            return packed.product(x, self._int8)
        return multiply(self._native, packed, held, x, self._int8)
