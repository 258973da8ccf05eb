"""LLaMA (arXiv:2302.13971) in NumPy, top to bottom.

    T  tokens read now    P  tokens in the cache    C  width    H  heads    U  heads of keys and values    N  head size

    a_t = softmax over s <= t of (q_t . k_s / sqrt(N)),  o_t = sum_s a_ts v_s        H / U heads of q share one head of k and v

`read` is what the engine runs: the tokens of one sequence after a cache, which grows in place. Tokens that are read together attend to each
other exactly. If the cache is packed (kv_cache.py), only those of earlier calls are read back from it. `step` is the same for one
token of B sequences, with a plain state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

from rwkvquant.kernels.functions import Array, silu
from rwkvquant.kernels.state import RecurrentState

Product = Callable[[str, Array], Array]  # (name of a matrix, x (T, in)) -> (T, out)


class Cache(Protocol):
    """The keys and values of one sequence, for all layers."""

    @property
    def length(self) -> int:
        """How many tokens it has."""
        ...

    def past(self, layer: int, turn: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Keys after RoPE and values, each (P, U, N). `turn` is RoPE for the P tokens of the cache."""
        ...

    def append(self, layer: int, k: Array, v: Array, turn: Callable[[Array], Array]) -> None:
        """Add tokens: k before RoPE and v, each (T, U, N). `turn` is RoPE for these tokens."""
        ...


def read(product: Product, vectors: Mapping[str, Array], x: Array, cache: Cache, layers: int, last: bool) -> Array:
    """x (T, C), the tokens' embedding rows -> logits (T, V), or (1, V) of the last token alone. The cache gets the tokens."""
    past = cache.length
    for layer in range(layers):
        name = f"model.layers.{layer}.".__add__
        turns = vectors[name("self_attn.frequencies")]
        size = len(turns)
        y = rms_norm(x, vectors, name("input_layernorm"))
        q, k, v = (product(name(f"self_attn.{c}_proj.weight"), y).reshape(len(x), -1, size) for c in "qkv")

        def now(heads: Array, turns: Array = turns) -> Array:
            return rotate(heads, turns, past)

        past_k, past_v = cache.past(layer, lambda heads, turns=turns: rotate(heads, turns))  # type: ignore[misc]
        q = now(q * vectors[name("self_attn.score_scale")][:, None])
        out = attention(q, np.concatenate([past_k, now(k)]), np.concatenate([past_v, v]))
        cache.append(layer, k, v, now)
        x = x + product(name("self_attn.o_proj.weight"), out.reshape(len(x), -1))
        y = rms_norm(x, vectors, name("post_attention_layernorm"))
        hidden = silu(product(name("mlp.gate_proj.weight"), y)) * product(name("mlp.up_proj.weight"), y)
        x = x + product(name("mlp.down_proj.weight"), hidden)
    return product("lm_head.weight", rms_norm(x[-1:] if last else x, vectors, "model.norm"))


def step(weights: Mapping[str, Array], x: Array, state: RecurrentState) -> tuple[Array, RecurrentState]:
    """x (B, C) -> logits (B, V), and the state after the token; `state` stays as it was.

    `weights` by the checkpoint's names, matrices (out, in).
    """
    logits, after, size = [], [], len(weights["model.layers.0.self_attn.frequencies"])
    for sequence in range(len(x)):
        cache = PlainCache(state.select([sequence]), size)
        logits.append(read(lambda name, y: y @ weights[name].T, weights, x[sequence : sequence + 1], cache, len(state.keys), True))
        after.append(cache.state())
    return np.concatenate(logits), RecurrentState.side_by_side(after)


class PlainCache:
    """The definition of a cache: a state of one sequence, (L, 1, P, U N), whose arrays become longer."""

    def __init__(self, state: RecurrentState, size: int) -> None:
        self._spec, self.length, self._size = state.spec, state.keys.shape[2], size
        self._keys, self._values = list(state.keys[:, 0]), list(state.values[:, 0])

    def past(self, layer: int, turn: Callable[[Array], Array]) -> tuple[Array, Array]:
        k, v = (each[layer].reshape(self.length, each[layer].shape[1] // self._size, self._size) for each in (self._keys, self._values))
        return turn(k), v

    def append(self, layer: int, k: Array, v: Array, turn: Callable[[Array], Array]) -> None:
        self._keys[layer] = np.concatenate([self._keys[layer], k.reshape(len(k), -1)])
        self._values[layer] = np.concatenate([self._values[layer], v.reshape(len(v), -1)])

    def state(self) -> RecurrentState:
        return RecurrentState(self._spec, (np.stack(self._keys)[:, None], np.stack(self._values)[:, None]))


def attention(q: Array, k: Array, v: Array) -> Array:
    """q (T, H, N), scaled, k, v (P + T, U, N), all after RoPE -> (T, H, N). A query sees its own token and all before."""
    tokens, keys = len(q), len(k)
    group = q.shape[1] // k.shape[1]
    grouped = q.reshape(tokens, k.shape[1], group, -1)
    scores = np.einsum("tugn,sun->ugts", grouped, k)
    scores[..., ~np.tri(tokens, keys, keys - tokens, dtype=bool)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("ugts,sun->tugn", weights, v).reshape(q.shape)


def rms_norm(x: Array, vectors: Mapping[str, Array], name: str) -> Array:
    """x (T, C): each row divided by the root of its mean square, then scaled by channel."""
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + vectors[f"{name}.epsilon"]) * vectors[f"{name}.weight"]


def rotate(x: Array, frequencies: Array, first: int = 0) -> Array:
    """RoPE: x (T, heads, N), of the tokens at the positions `first` and after. Channel i turns with channel i + N/2."""
    positions = np.arange(first, first + len(x), dtype=frequencies.dtype)
    angles = (positions[:, None] * frequencies)[:, None]  # (T, 1, N)
    one, other = np.split(x, 2, axis=-1)
    return x * np.cos(angles) + np.concatenate([-other, one], axis=-1) * np.sin(angles)
