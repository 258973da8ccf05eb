"""How much of the input of ffn.value is not zero, by layer. A product that skips zeros (codecs/columnwise.py) is faster the less it is.

The input is a squared ReLU. Of released models 12 to 13 % of it is not zero; of random weights half would be. `lower` gives random
weights the share that is asked for.

The engine reads the beginning of a text. Then the step in NumPy (kernels/) reads a few tokens, with stand-ins for its matrices. A stand-in
multiplies by the native module, as the engine does, and shows its input and output to a function. So the engine itself counts nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import architecture
from rwkvquant.codecs import PackedTensor
from rwkvquant.codecs.native import product
from rwkvquant.errors import ConfigError
from rwkvquant.runtime.engines.choice import make_engine
from rwkvquant.runtime.engines.reference import step_of
from rwkvquant.runtime.session import END_OF_TEXT, Model
from rwkvquant.runtime.weights import Weights
from rwkvquant.transforms import NONE, Applied

Array = NDArray[np.float32]
Watch = Callable[[Array, Array], Array]  # gets the input and the output of a product, x (B, in) and y (B, out), and gives the output

SEQUENCES, LENGTH, WATCHED = 16, 40, 8  # texts of a measurement, their tokens, and how many at the end of each are watched
TUNING_LENGTH = 4
TUNING_VALUES = 1 << 17  # of an input, in all sequences: so the density is known to 0.1 %, and the states take little memory
TOLERANCE = 0.005


@dataclass(frozen=True)
class Density:
    """The share that is not zero, for each layer: `layers` (L,)."""

    layers: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.layers))

    def to_json(self) -> dict[str, Any]:
        return {"mean": self.mean, "least": min(self.layers), "most": max(self.layers), "layers": list(self.layers)}


class _Product:
    """Stands where a step has a matrix W (out, in), for x @ W.T."""

    __array_ufunc__ = None  # so that x @ this asks this

    def __init__(self, packed: PackedTensor, transform: Applied, watch: Watch | None) -> None:
        self._packed, self._transform, self._watch = packed, transform, watch

    @property
    def T(self) -> _Product:
        return self

    def __rmatmul__(self, x: Array) -> Array:
        y = product(self._packed, np.ascontiguousarray(self._transform.activations(x), np.float32))
        return y if self._watch is None else self._watch(x, y)


def own_texts(model: Model) -> NDArray[np.int64]:
    """(SEQUENCES, LENGTH) tokens that the model writes itself after a token 0, each drawn by its probability."""
    rng, slots = np.random.default_rng(0), model.slots(SEQUENCES)
    own = [slots.add() for _ in range(SEQUENCES)]
    texts = np.full((SEQUENCES, LENGTH), END_OF_TEXT)
    for position in range(1, LENGTH):
        logits = np.stack(list(slots.forward({slot: [int(texts[i, position - 1])] for i, slot in enumerate(own)}).values()))
        texts[:, position] = np.argmax(logits + rng.gumbel(size=logits.shape), axis=-1)  # the largest logit with Gumbel noise
    return texts


def measure_density(weights: Weights, texts: NDArray[np.integer], threads: int | None = None) -> Density | None:
    """Over the last tokens of `texts` (sequences, length), at least WATCHED. None for an architecture without a squared ReLU."""
    own = architecture(weights.arch)
    if own.squared_relu is None:
        return None
    shares: dict[str, list[float]] = {name: [] for name in weights.matrices if own.reads_nonnegative(name, weights.vectors)}
    _read(weights, {name: _share_of_input(values) for name, values in shares.items()}, texts, WATCHED, threads)
    return Density(tuple(float(np.mean(values)) for values in shares.values()))


def lower(weights: Weights, density: float, seed: int = 0) -> None:
    """Change the norms before the squared ReLUs, in `weights.vectors`, until the input of every ffn.value has this density.

    If all elements of the bias are c, x has c more everywhere, and output j of the matrix has c s_j more; s_j is the sum of row j. The rows
    must have a common part (`Codec.leaning_arrays`): then nearly all s_j have the same sign. c is found by halving, layer by layer, as
    the layer is read. What x mixes in from the previous token must be 0: then the density is the same at every position of a text.

    Where the input has an orthogonal transform T, the bias is c T^-1 1, so that T x has c more, and the gains of the norm become 0 where
    T^-1 1 is not. Otherwise the sum of T x, and with it the density, would differ from token to token; without T this sum is 0.

    Raises ConfigError for a density that is not above 0 and at most 1, and for weights with which it cannot be had.
    """
    if not 0 < density <= 1:
        raise ConfigError(f"density must be above 0 and at most 1; got {density:g}")
    own, dims = architecture(weights.arch), weights.dims
    relu = own.squared_relu
    if relu is None:
        raise ConfigError(f"density is for architectures with a squared ReLU; {own.title} has none")
    count = min(max(16, TUNING_VALUES // dims.hidden), 512)
    texts = np.random.default_rng(seed).integers(0, dims.vocab, (count, TUNING_LENGTH))
    for _ in range(2):  # again, because the first time the engine had other biases, and so have other products of the block
        tuners = {}
        for layer in range(dims.layers):
            matrix, gain, bias = (own.full_name(layer, name) for name in (relu.matrix, relu.gain, relu.bias))
            tuners[matrix] = _Tuner(weights.matrices[matrix], weights.transforms.get(matrix, NONE), weights.vectors[bias], density)
            if matrix in weights.transforms:
                weights.vectors[gain][tuners[matrix].step != 0] = 0
        _read(weights, tuners, texts, 1)
    worst = max((tuner.share for tuner in tuners.values()), key=lambda share: abs(share - density))
    if abs(worst - density) > TOLERANCE:
        raise ConfigError(
            f"these random weights cannot have a density of {100 * density:g} %; a layer stays at {100 * worst:.1f} %. "
            f"Try a density nearer to 50 %, or other layouts: the rows of {relu.matrix} must have a common part"
        )


class _Tuner:
    """Changes the bias of a squared ReLU while its matrix is used, so that the rest of the step reads what the new bias gives."""

    def __init__(self, packed: PackedTensor, transform: Applied, bias: Array, density: float) -> None:
        self.share = 0.0
        self._bias, self._density = bias, density
        ones = np.ones((1, len(bias)), np.float32)
        self._sums = product(packed, ones, int8=False)[0]
        self.step = transform.undone(ones)[0]  # 1 T, which is T^-1 1 where T is orthogonal

    def __call__(self, x: Array, y: Array) -> Array:
        change = _missing_bias(y, self._sums, self._density)
        self._bias += change * self.step
        y = y + change * self._sums
        self.share = float((y > 0).mean())
        return y


def _missing_bias(outputs: Array, sums: Array, density: float) -> np.float32:
    """c with which the share `density` of outputs (B, out) + c * sums (out,) is positive."""
    sign, size = np.sign(sums.mean()), max(float(np.abs(sums.mean())), 1e-12)
    low, high = -64 * float(outputs.std()) / size, 64 * float(outputs.std()) / size
    for _ in range(24):
        middle = (low + high) / 2
        more = float((outputs > np.float32(-sign * middle) * sums).mean()) < density
        low, high = (middle, high) if more else (low, middle)
    return np.float32(sign * high)


def _read(weights: Weights, watches: Mapping[str, Watch], texts: NDArray[np.integer], watched: int, threads: int | None = None) -> None:
    """Read `texts` (sequences, length) by the engine, and the last `watched` tokens of each with `watches`."""
    tensors, step = _stand_ins(weights, watches), step_of(weights.arch)
    state = architecture(weights.arch).zero_state(weights.dims, len(texts))
    if watched < texts.shape[1]:
        _, state = make_engine(weights, threads).read(texts[:, :-watched].tolist(), state, "last")
    for ids in texts[:, -watched:].T.tolist():
        _, state = step(tensors, weights.embedding.rows(ids), state)


def _stand_ins(weights: Weights, watches: Mapping[str, Watch]) -> dict[str, Any]:
    """The weights by the names of a step, with a stand-in for each matrix."""
    tensors: dict[str, Any] = dict(weights.vectors)

    def stand_in(name: str) -> _Product:
        return _Product(weights.matrices[name], weights.transforms.get(name, NONE), watches.get(name))

    for name, spec, _ in architecture(weights.arch).used(weights.dims.layers):
        if spec.slices:
            tensors[name] = [stand_in(f"{name}.{index}") for index in range(len(spec.parts))]
        elif name in weights.matrices:
            tensors[name] = stand_in(name)
    return tensors


def _share_of_input(values: list[float]) -> Watch:
    def watch(x: Array, y: Array) -> Array:
        values.append(float((x != 0).mean()))
        return y

    return watch
