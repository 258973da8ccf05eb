"""States that grow with the tokens: the caches of keys and values of several sequences, each of its own length, exact or packed.

Between them and a State, which callers copy and save, are float32 arrays with keys before RoPE. A State that a model gave keeps its packed
cache as long as it is in memory. One that was saved and loaded is packed again, which may move its numbers by a rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import architecture
from rwkvquant.architectures.llama import FREQUENCIES
from rwkvquant.errors import ConfigError
from rwkvquant.kernels.kv_cache import KVCache, KVCacheConfig
from rwkvquant.kernels.llama import rotate
from rwkvquant.kernels.state import RecurrentState, StateArray
from rwkvquant.runtime.weights import Weights

EXACT = KVCacheConfig(bits=32, keys="before")


@dataclass(frozen=True)
class CacheMaker:
    """Makes caches of one model. `frequencies`: RoPE's, of each layer."""

    spec: tuple[StateArray, ...]
    config: KVCacheConfig
    heads: int
    size: int
    frequencies: tuple[NDArray[np.float32], ...]

    def room(self, count: int) -> Caches:
        """For `count` sequences that have read nothing."""
        return Caches(self, [self.empty() for _ in range(count)])

    def empty(self) -> KVCache:
        return KVCache(self.config, len(self.frequencies), self.heads, self.size)

    def packed(self, state: RecurrentState) -> Caches:
        """The same state as caches; `state` itself if it has caches of this config."""
        if isinstance(state, Caches) and state.maker.config is self.config:
            return state
        room = self.room(state.batch)
        room.put(range(state.batch), state)
        return room

    def cache_of(self, keys: NDArray[np.float32], values: NDArray[np.float32]) -> KVCache:
        """keys, values (L, T, C) -> a cache."""
        cache = self.empty()
        for layer, turns in enumerate(self.frequencies):
            k, v = (each[layer].reshape(-1, self.heads, self.size) for each in (keys, values))
            cache.append(layer, k, v, lambda heads, turns=turns: rotate(heads, turns))  # type: ignore[misc]
        return cache

    def arrays_of(self, cache: KVCache) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The inverse of `cache_of`, but for what was rounded."""
        keys, values = [], []
        for layer, turns in enumerate(self.frequencies):
            k, v = cache.past(layer, lambda heads: heads)
            keys.append((k if self.config.keys == "before" else rotate(k, -turns)).reshape(cache.length, self.heads * self.size))
            values.append(v.reshape(cache.length, self.heads * self.size))
        return np.stack(keys), np.stack(values)


class Caches(RecurrentState):
    """A RecurrentState whose sequences are caches. `arrays` decodes them: for one sequence, or several of one length."""

    def __init__(self, maker: CacheMaker, caches: list[KVCache]) -> None:
        object.__setattr__(self, "maker", maker)
        object.__setattr__(self, "caches", caches)
        object.__setattr__(self, "spec", maker.spec)

    maker: CacheMaker
    caches: list[KVCache]

    @property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        decoded = [self.maker.arrays_of(cache) for cache in self.caches]
        return tuple(np.stack(parts, axis=1) for parts in zip(*decoded, strict=True))

    @property
    def batch(self) -> int:
        return len(self.caches)

    @property
    def nbytes(self) -> int:
        return sum(cache.nbytes for cache in self.caches)

    def copy(self) -> Caches:
        return self.select(range(self.batch))

    def select(self, indices: Sequence[int] | NDArray[np.integer]) -> Caches:
        return Caches(self.maker, [self.caches[int(i)].copy() for i in indices])

    def put(self, slots: Sequence[int], values: RecurrentState) -> None:
        if isinstance(values, Caches) and values.maker.config is self.maker.config:
            new = [cache.copy() for cache in values.caches]
        else:
            keys, numbers = values.arrays
            new = [self.maker.cache_of(keys[:, i], numbers[:, i]) for i in range(values.batch)]
        for slot, cache in zip(slots, new, strict=True):
            self.caches[slot] = cache


def cache_maker(weights: Weights, asked: int | KVCacheConfig | None) -> CacheMaker | None:
    """None for a model whose state does not grow. Raises ConfigError for a cache that it does not have, or that does not suit its heads."""
    own, dims = architecture(weights.arch), weights.dims
    if not own.grows:
        if asked is not None:
            raise ConfigError(f"only transformers have a cache of keys and values; {own.title} has a state of fixed size. Leave it out")
        return None
    config = KVCacheConfig(bits=asked) if isinstance(asked, int) else asked or EXACT
    heads = dims.ranks["KV"] // dims.head_size
    config.check(heads, dims.head_size)
    frequencies = tuple(weights.vectors[own.full_name(layer, FREQUENCIES)] for layer in range(dims.layers))
    return CacheMaker(own.state, config, heads, dims.head_size, frequencies)
