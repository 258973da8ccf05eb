"""The native engine for images: gets the file's arrays once, and then the patches of some images at a time.

Matrices are not copied from the file. The embedding and the heads are those of the definition (kernels/), with native products; the
blocks are one native call.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rwkvquant.architectures import architecture
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.errors import FormatError
from rwkvquant.kernels import dispatch
from rwkvquant.runtime.engines.image_base import Array, forward_of
from rwkvquant.runtime.engines.native import held_matrix
from rwkvquant.runtime.weights import Weights


class Factor:
    """A matrix W (rows, cols) of the engine on the right of a product: x (..., cols) @ W.T -> (..., rows)."""

    __array_ufunc__ = None  # NumPy leaves `x @ W` to __rmatmul__

    def __init__(self, engine: Any, name: str, rows: int) -> None:
        self._engine, self._name, self._rows = engine, name, rows

    @property
    def T(self) -> Factor:
        return self

    def __rmatmul__(self, x: Array) -> Array:
        vectors = np.ascontiguousarray(x, np.float32).reshape(-1, x.shape[-1])
        out = np.empty((len(vectors), self._rows), np.float32)
        self._engine.multiply(self._name, vectors, len(vectors), out.reshape(-1))
        return out.reshape(*x.shape[:-1], self._rows)


class NativeImageEngine:
    """See image_base.py."""

    def __init__(self, weights: Weights, settings: ImageSettings, threads: int, activations: str = "int8") -> None:
        """Needs the native module. Raises FormatError for weights that do not fit together."""
        native = dispatch.native_module()
        assert native is not None
        self.name = str(native.isa())
        self._require_whole, self._settings = weights.require_whole, settings
        self._forward = forward_of(weights.arch)
        own, dims = architecture(weights.arch), weights.dims
        self._patch = dims.patch
        matrices = weights.matrices | {own.embedding.name: weights.embedding}
        flat = {name: np.ascontiguousarray(values, np.float32).reshape(-1) for name, values in weights.vectors.items()}
        try:
            held = {name: held_matrix(native, name, packed) for name, packed in matrices.items()}
            sizes = dims.layers, dims.width, dims.hidden, settings.post_norm
            self._engine = native.ImageEngine(*sizes, held, flat, threads, activations == "int8")
        except ValueError as error:
            raise FormatError(str(error)) from None
        factors = {name: Factor(self._engine, name, packed.shape[0]) for name, packed in matrices.items() if own.split(name)[0] == ""}
        self.weights: Mapping[str, Any] = weights.vectors | factors

    @property
    def threads(self) -> int:
        """How many threads work: fewer than asked for where the system gives fewer."""
        return int(self._engine.threads)

    def features(self, pixels: Array) -> Array:
        """See image_base.py."""
        self._require_whole()
        x, here = self._forward.embed(self.weights, pixels, self._patch, self._settings.grid)
        x = np.ascontiguousarray(x, np.float32)
        self._engine.blocks(x.reshape(-1), len(x), *here)
        return x.swapaxes(1, 2).reshape(len(x), -1, *here)
