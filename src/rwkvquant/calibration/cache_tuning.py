"""The fixed part of a two-dimensional cache, and its tuning over the next blocks (WKVQuant, arXiv:2402.12065).

    delta  the mean of a channel          s_k = sqrt(std k / std q),  s_v = sqrt(std v / |column of W_o|)        by channel

so that what a channel's error does to the output is shared between its size and its steps. Then, block by block, a clip, delta and s of
keys and values are trained by

    L_l = L1(y^_l, y_l) + lambda L1(F_{l+k} ... F_{l+1}(y^_l), y_{l+k})          k = 5, each L1 over the mean of |y|

y is the stream of the same weights with an exact cache, y^ the stream after the blocks tuned before; the blocks F after l are exact. The
paper's text does not say how the two terms are combined: this is a reading. Weights stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rwkvquant.kernels.kv_cache import KVCacheConfig
from rwkvquant.models.llama import attention, block, rotate
from rwkvquant.models.llama_cache import CachedAttention, TorchStatic

Block = dict[str, Any]
Statics = list[tuple[TorchStatic, TorchStatic]]  # keys and values of each layer


@dataclass(frozen=True)
class Tuning:
    """`ahead`: blocks after the tuned one, k; 0 leaves the second term out. `parts`: which are trained."""

    steps: int = 40
    rate: float = 0.005  # of Adam; it falls to 0 in a line
    ahead: int = 5
    weight: float = 1.0
    rows: int = 2
    parts: tuple[str, ...] = ("shift", "smooth", "clip")
    seed: int = 0


@torch.no_grad()
def measured_statics(blocks: Sequence[Block], x: Tensor, keys: str, parts: Sequence[str] = ("shift", "smooth")) -> Statics:
    """x (B, T, C), the embedded text; dense weights. `keys` "before" or "after" RoPE; what is not in `parts` stays 0 or 1."""
    statics: Statics = []
    for weights in blocks:
        heard: list[Tensor] = []

        def listen(q: Tensor, k: Tensor, v: Tensor, frequencies: Tensor, heard: list[Tensor] = heard) -> Tensor:
            heard.extend((rotate(q, frequencies), rotate(k, frequencies), v) if keys == "after" else (q, k, v))
            return attention(q, k, v, frequencies)

        x, _, _ = block(weights, x, None, None, attend=listen)
        q, k, v = heard
        heads, size = k.shape[2:]
        q_size = q.unflatten(2, (heads, -1)).square().mean((0, 1, 3)).sqrt().flatten()  # over the query heads that share a key head
        columns = weights["self_attn.o_proj.weight"].square().sum(0).view(heads, -1, size).mean(1).sqrt().flatten()
        pair = []
        for values, importance in ((k, q_size), (v, columns)):
            flat = values.flatten(-2).flatten(0, 1)
            static = TorchStatic.none(heads * size)
            if "shift" in parts:
                static.shift = flat.mean(0)
            if "smooth" in parts:
                smooth = (flat.std(0).clamp(min=1e-6) / importance.clamp(min=1e-6)).sqrt()
                static.smooth = smooth / smooth.log().mean().exp()
            pair.append(static)
        statics.append((pair[0], pair[1]))
    return statics


def tune(
    blocks: Sequence[Block],
    x: Tensor,
    config: KVCacheConfig,
    statics: Statics,
    tuning: Tuning,
    tell: Callable[[str], None] = lambda line: None,
) -> Statics:
    """Train the statics of one layer after the other on x (B, T, C), the embedded text. The result has no gradients."""
    generator = torch.Generator().manual_seed(tuning.seed)
    with torch.no_grad():
        exact = [x]
        for weights in blocks:
            exact.append(block(weights, exact[-1], None, None)[0])
    stream, tuned = x, list(statics)
    for layer, weights in enumerate(blocks):
        last = min(layer + tuning.ahead, len(blocks) - 1)
        trained = [_Trained(static, tuning.parts) for static in statics[layer]]
        optimizer = torch.optim.Adam([each for one in trained for each in one.parameters()], lr=tuning.rate)
        before = after = 0.0
        for step in range(tuning.steps):
            rows = torch.randperm(len(x), generator=generator)[: tuning.rows]
            keys, values = (one.static() for one in trained)
            y = block(weights, stream[rows], None, None, attend=CachedAttention(config, keys, values))[0]
            loss = _distance(y, exact[layer + 1][rows])
            if last > layer:
                for later in blocks[layer + 1 : last + 1]:
                    y = block(later, y, None, None)[0]
                loss = loss + tuning.weight * _distance(y, exact[last + 1][rows])
            for group in optimizer.param_groups:
                group["lr"] = tuning.rate * (1 - step / tuning.steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            before, after = (loss.item() if step == 0 else before), loss.item()
        with torch.no_grad():
            keys, values = (one.static() for one in trained)
            tuned[layer] = keys, values
            stream = block(weights, stream, None, None, attend=CachedAttention(config, keys, values))[0]
        tell(f"block {layer}: loss {before:.5f} -> {after:.5f}, clip {keys.clip:.3f} and {values.clip:.3f}")
    return tuned


class _Trained:
    """delta = delta_0 + d s_0, s = s_0 e^a, clip = 1 - c^2: numbers of about the same size, so that one rate suits all."""

    def __init__(self, static: TorchStatic, parts: Sequence[str]) -> None:
        self._start, self._parts = static, parts
        zeros = torch.zeros_like(static.shift)
        self._shift, self._smooth = zeros.clone().requires_grad_(), zeros.clone().requires_grad_()
        self._clip = torch.full((), 0.2).requires_grad_()

    def parameters(self) -> list[Tensor]:
        return [{"shift": self._shift, "smooth": self._smooth, "clip": self._clip}[part] for part in self._parts]

    def static(self) -> TorchStatic:
        start = self._start
        return TorchStatic(
            start.shift + self._shift * start.smooth if "shift" in self._parts else start.shift,
            start.smooth * self._smooth.exp() if "smooth" in self._parts else start.smooth,
            1 - self._clip.square() if "clip" in self._parts else start.clip,
        )


def _distance(found: Tensor, wanted: Tensor) -> Tensor:
    return (found - wanted).abs().mean() / wanted.abs().mean()
