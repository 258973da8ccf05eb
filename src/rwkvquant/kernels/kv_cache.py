"""A cache of keys and values in few bits (WKVQuant, arXiv:2402.12065; KIVI, arXiv:2402.02750; rotation as in QuaRot, arXiv:2404.00456).

    k, v  (T, U, N)  T tokens, U heads, N head size        C = U N channels        delta, s  (C,), fixed before: shift and smoothing

*Past only.* A cache is read before the present tokens are added, so attention sees exact keys and values of those. A prompt that is
read at once attends exactly; then it is packed.

*Two-dimensional.* x~ = (x - delta) / s by channel, fixed; then per token in groups of channels, as kv_packing.py says.

*KIVI.* Keys by channel, in groups of tokens; values by token, in groups of channels. The newest tokens wait in float16: keys until `window`
have gathered, of values always the last `window`.

Adding a token does not touch what is packed. Reading decodes everything: the attention in kernels/llama.py is plain NumPy.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.functions import Array
from rwkvquant.kernels.kv_packing import Chunks, dequantize_rows, of_planes, quantize_rows, to_planes

BITS, SCHEMES, PLACES = (2, 3, 4, 8, 16, 32), ("token", "kivi"), ("before", "after")


@dataclass(frozen=True)
class Static:
    """What is fixed for the keys or the values of one layer. shift, smooth (C,); None: 0 and 1."""

    shift: Array | None = None
    smooth: Array | None = None
    clip: float = 1.0


@dataclass(frozen=True)
class KVCacheConfig:
    """How a cache is kept. The default is per token, without anything that must be calibrated.

    bits     2, 3, 4 or 8 for each number; 16 and 32 are float16 and float32, without codes
    scheme   "token": per token and group of channels. "kivi": keys by channel in groups of tokens, with a window
    group    channels (for kivi's keys: tokens) in a group; it divides the channels. 0: the head size
    window   the newest tokens that stay in float16; a multiple of `group` for kivi
    rotate   multiply each head by a Hadamard matrix first, which spreads outliers (the head size must be a power of two)
    keys     quantise keys "before" or "after" RoPE
    static   (layer, "keys" or "values") -> Static, from calibration; only for "token"
    """

    bits: int = 4
    scheme: str = "token"
    group: int = 0
    window: int = 0
    rotate: bool = False
    keys: str = "after"
    static: Mapping[tuple[int, str], Static] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, known in (("bits", self.bits, BITS), ("scheme", self.scheme, SCHEMES), ("keys", self.keys, PLACES)):
            if value not in known:
                raise ConfigError(f"{name} of a cache must be one of {', '.join(map(str, known))}; got {value!r}")
        for name, number in (("group", self.group), ("window", self.window)):
            if type(number) is not int or number < 0:
                raise ConfigError(f"{name} of a cache must be a whole number of at least 0; got {number!r}")
        if self.scheme == "kivi" and not (self.group and self.window and self.window % self.group == 0):
            raise ConfigError(f"kivi's window must be a multiple of its group, and both above 0; got {self.window} and {self.group}")
        if self.static and self.scheme != "token":
            raise ConfigError(f"a shift, smoothing or clip is for the scheme token; got one with {self.scheme}")

    def check(self, heads: int, size: int) -> None:
        """Raises ConfigError if a cache of so many key and value heads of this size cannot be kept so."""
        channels, group = heads * size, self.group or size
        if self.bits < 16 and (channels % 8 or channels % group):
            raise ConfigError(
                f"the group of a cache must divide its channels, and 8 must divide them too; got a group of {group} for "
                f"{channels} channels ({heads} heads of {size}). Try group={size}"
            )
        if self.rotate and size & (size - 1):
            raise ConfigError(f"rotate needs heads whose size is a power of two; got {size}")

    def bits_of_a_number(self, size: int) -> float:
        """With step and lowest value, without the window."""
        return float(self.bits) if self.bits >= 16 else self.bits + 32 / (self.group or size)


def hadamard(size: int) -> Array:
    """(size, size), symmetric and orthogonal: its own inverse. `size` is a power of two."""
    H = np.ones((1, 1), np.float32)
    while len(H) < size:
        H = np.block([[H, H], [H, -H]])
    return (H / np.sqrt(size)).astype(np.float32)


class _Rows:
    """Numbers of one layer, packed per token; the newest `window` in float16."""

    def __init__(self, config: KVCacheConfig, channels: int, group: int, static: Static) -> None:
        self._config, self._group, self._window, self._static = config, group, config.window, static
        width = channels // group
        self._planes = Chunks((config.bits, channels // 8), np.uint8)
        self._low, self._step = Chunks((width,), np.float16), Chunks((width,), np.float16)
        self._new = np.empty((0, channels), np.float16)

    def append(self, x: Array) -> None:
        """x (T, C)"""
        if self._window:
            self._new = np.concatenate([self._new, x.astype(np.float16)])
            ready = max(len(self._new) - self._window, 0)
            x, self._new = self._new[:ready].astype(np.float32), self._new[ready:]
        if len(x):
            shift, smooth = self._static.shift, self._static.smooth
            x = x if shift is None else x - shift
            x = x if smooth is None else x / smooth
            codes, low, step = quantize_rows(x, self._config.bits, self._group, self._static.clip)
            for chunks, new in ((self._planes, to_planes(codes, self._config.bits)), (self._low, low), (self._step, step)):
                chunks.append(new)

    def all(self) -> Array:
        """(P, C) float32"""
        x = dequantize_rows(of_planes(self._planes.all()), self._low.all(), self._step.all(), self._group)
        x = x if self._static.smooth is None else x * self._static.smooth
        x = x if self._static.shift is None else x + self._static.shift
        return np.concatenate([x, self._new.astype(np.float32)]) if len(self._new) else x

    @property
    def nbytes(self) -> int:
        return self._planes.nbytes + self._low.nbytes + self._step.nbytes + self._new.nbytes


class _Columns:
    """KIVI's keys: by channel, in groups of `group` tokens, when `window` tokens have gathered."""

    def __init__(self, config: KVCacheConfig, channels: int) -> None:
        self._bits, self._group, self._window = config.bits, config.group, config.window
        self._planes = Chunks((config.bits, channels // 8), np.uint8)
        self._low, self._step = Chunks((channels,), np.float16, 8), Chunks((channels,), np.float16, 8)
        self._new = np.empty((0, channels), np.float16)

    def append(self, x: Array) -> None:
        self._new = np.concatenate([self._new, x.astype(np.float16)])
        ready = len(self._new) // self._window * self._window
        x, self._new = self._new[:ready].astype(np.float32), self._new[ready:]
        if ready:
            columns = x.reshape(-1, self._group, x.shape[1]).swapaxes(1, 2)  # (groups, C, tokens)
            codes, low, step = quantize_rows(columns.reshape(-1, self._group), self._bits, self._group)
            codes = codes.reshape(columns.shape).swapaxes(1, 2).reshape(x.shape)
            self._planes.append(to_planes(codes, self._bits))
            self._low.append(low.reshape(len(columns), -1))
            self._step.append(step.reshape(len(columns), -1))

    def all(self) -> Array:
        codes = of_planes(self._planes.all()).astype(np.float32).reshape(self._low.length, self._group, self._new.shape[1])
        x = self._low.all().astype(np.float32)[:, None] + codes * self._step.all().astype(np.float32)[:, None]
        return np.concatenate([x.reshape(-1, self._new.shape[1]), self._new.astype(np.float32)])

    @property
    def nbytes(self) -> int:
        return self._planes.nbytes + self._low.nbytes + self._step.nbytes + self._new.nbytes


class _Floats:
    """float16 or float32."""

    def __init__(self, bits: int, channels: int) -> None:
        self._dtype = np.float16 if bits == 16 else np.float32
        self._x = Chunks((channels,), self._dtype)

    def append(self, x: Array) -> None:
        self._x.append(x.astype(self._dtype))

    def all(self) -> Array:
        return self._x.all().astype(np.float32)

    @property
    def nbytes(self) -> int:
        return self._x.nbytes


class KVCache:
    """The cache of one sequence (see kernels/llama.py), as `config` says. Raises ConfigError if that does not suit the heads."""

    def __init__(self, config: KVCacheConfig, layers: int, heads: int, size: int) -> None:
        config.check(heads, size)
        self.config, self._shape, self.length = config, (heads, size), 0
        self._layers = layers
        self._H = hadamard(size) if config.rotate else None
        self._kept = [[_kept(config, layer, name, heads, size) for name in ("keys", "values")] for layer in range(layers)]

    def past(self, layer: int, turn: Callable[[Array], Array]) -> tuple[Array, Array]:
        k, v = (self._turned(kept.all().reshape(-1, *self._shape)) for kept in self._kept[layer])
        return (turn(k) if self.config.keys == "before" else k), v

    def append(self, layer: int, k: Array, v: Array, turn: Callable[[Array], Array]) -> None:
        k = k if self.config.keys == "before" else turn(k)
        for kept, x in zip(self._kept[layer], (k, v), strict=True):
            kept.append(self._turned(x).reshape(len(x), x.shape[1] * x.shape[2]))
        if layer == self._layers - 1:
            self.length += len(k)

    def copy(self) -> KVCache:
        return copy.deepcopy(self, {id(self.config): self.config})

    @property
    def nbytes(self) -> int:
        """Of the numbers, with their steps, and the free rows of the last chunks."""
        return sum(kept.nbytes for layer in self._kept for kept in layer)

    def _turned(self, x: Array) -> Array:
        return x if self._H is None else x @ self._H


def _kept(config: KVCacheConfig, layer: int, name: str, heads: int, size: int) -> _Rows | _Columns | _Floats:
    channels = heads * size
    if config.bits >= 16:
        return _Floats(config.bits, channels)
    if config.scheme == "kivi" and name == "keys":
        return _Columns(config, channels)
    return _Rows(config, channels, config.group or size, config.static.get((layer, name), Static()))
