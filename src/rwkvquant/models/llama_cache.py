"""Attention with a quantised cache, in torch and with gradients: what kernels/kv_cache.py stores, for studies and for tuning.

All positions of a text are computed at once, each as if it were generated alone: the query of token t sees what the cache would hold then.

    waits[t, s]   whether token s still waits in the window, in float16, when token t is read
    o_t = sum over s <= t of a_ts v*_ts,    a_t = softmax over s <= t of q_t . k*_ts        k*_ts: exact for s = t (past only), float16 if
                                                                                            it waits, else rounded; v* the same

Rounding passes gradients straight through; shift, smoothing and clip are tensors that may be trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rwkvquant.kernels.kv_cache import KVCacheConfig, hadamard
from rwkvquant.kernels.kv_packing import HALF
from rwkvquant.models.llama import rotate

QUERIES = 256  # in one product: later keys than theirs are left out
Waits = Callable[[Tensor, Tensor], Tensor]  # positions of queries (T, 1) and of keys (S,) -> (T, S)


@dataclass
class TorchStatic:
    """As kernels/kv_cache.py's Static: shift and smooth (C,), clip () in (0, 1]."""

    shift: Tensor
    smooth: Tensor
    clip: Tensor

    @classmethod
    def none(cls, channels: int) -> TorchStatic:
        return cls(torch.zeros(channels), torch.ones(channels), torch.ones(()))


@dataclass
class CachedAttention:
    """An `Attend` of models/llama.py. `past_only` False: the present token is rounded too. `keys`, `values`: None for no static part."""

    config: KVCacheConfig
    keys: TorchStatic | None = None
    values: TorchStatic | None = None
    past_only: bool = True

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, frequencies: Tensor) -> Tensor:
        q, turned = rotate(q, frequencies), rotate(k, frequencies)
        if self.config.bits == 32:
            kept_k, kept_v = [turned], [v]
        else:
            before = self.config.keys == "before"
            kept_k = self._kept(k if before else turned, self.keys, self.config.scheme == "kivi")
            kept_k = [rotate(each, frequencies) for each in kept_k] if before else kept_k
            kept_v = self._kept(v, self.values, False)
        return self._attend(q, turned, kept_k, v, kept_v)

    def _kept(self, x: Tensor, static: TorchStatic | None, by_channel: bool) -> list[Tensor]:
        """x (B, T, U, N) -> what the cache gives back: rounded, and with a window also what waits there."""
        config, shape = self.config, x.shape
        if config.bits == 16:
            return [x.half().float()]
        H = torch.from_numpy(hadamard(shape[-1])) if config.rotate else None
        x = x if H is None else x @ H
        x = x.half().float() if config.window else x
        waiting = [x if H is None else x @ H] if config.window else []
        flat = x.flatten(-2)
        if static is not None:
            flat = (flat - static.shift) / static.smooth
        if by_channel:  # the last tokens, too few for a group, are exact for every query that sees them
            whole = shape[1] // config.group * config.group
            groups = flat[:, :whole].unflatten(1, (-1, config.group)).transpose(2, 3)  # (B, groups, C, tokens)
            flat = torch.cat([round_groups(groups, config.bits).transpose(2, 3).flatten(1, 2), flat[:, whole:]], dim=1)
        else:
            groups = flat.unflatten(-1, (-1, config.group or shape[-1]))
            flat = round_groups(groups, config.bits, None if static is None else static.clip).flatten(-2)
        if static is not None:
            flat = flat * static.smooth + static.shift
        x = flat.view(shape)
        return [x if H is None else x @ H, *waiting]

    def _waits(self, by_channel: bool) -> Waits:
        window = self.config.window

        def waits(t: Tensor, s: Tensor) -> Tensor:
            there = t if self.past_only else t + 1  # tokens in the cache when attention reads it
            return s >= there - (there % window if by_channel else window)

        return waits

    def _attend(self, q: Tensor, k: Tensor, kept_k: list[Tensor], v: Tensor, kept_v: list[Tensor]) -> Tensor:
        shared = q.shape[2] // k.shape[2]

        def by_head(x: Tensor, times: int = shared) -> Tensor:
            return x.transpose(1, 2).repeat_interleave(times, 1)  # (B, H, T, N)

        q, k, v = by_head(q, 1), by_head(k), by_head(v)
        rounded_k, *waiting_k = map(by_head, kept_k)
        rounded_v, *waiting_v = map(by_head, kept_v)
        waits_k, waits_v = self._waits(self.config.scheme == "kivi"), self._waits(False)
        parts = []
        for first in range(0, q.shape[2], QUERIES):
            stop = min(first + QUERIES, q.shape[2])
            near = slice(max(0, first - self.config.window), stop)  # only keys from here on may wait, be the present one or come later
            queries, own = q[:, :, first:stop], slice(first, stop)
            t, s = torch.arange(first, stop)[:, None], torch.arange(near.start, stop)
            scores = queries @ rounded_k[:, :, :stop].mT
            close = scores[..., near]
            if waiting_k:
                close = torch.where(waits_k(t, s), queries @ waiting_k[0][:, :, near].mT, close)
            if self.past_only:
                close = torch.where(s == t, (queries * k[:, :, own]).sum(-1, keepdim=True), close)
            scores[..., near] = close.masked_fill(s > t, float("-inf"))
            weights = scores.softmax(-1)
            out = weights @ rounded_v[:, :, :stop]
            if waiting_v:
                waits = waits_v(t, s) & (s != t) if self.past_only else waits_v(t, s)
                out = out + (weights[..., near] * waits) @ (waiting_v[0] - rounded_v)[:, :, near]
            if self.past_only:
                present = weights.diagonal(first, -2, -1)[..., None]
                out = out + present * (v - rounded_v)[:, :, own]
            parts.append(out)
        return torch.cat(parts, dim=2).transpose(1, 2)


def round_groups(x: Tensor, bits: int, clip: Tensor | None = None) -> Tensor:
    """x (..., G), each last axis one group -> rounded: quantize_rows and dequantize_rows of kernels/kv_packing.py."""
    least, most = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    half = (most - least) / 2 if clip is None else clip * (most - least) / 2
    low = _straight((most + least) / 2 - half, lambda each: each.clamp(float(HALF.min), float(HALF.max)).half().float())
    step = _straight(2 * half / (2**bits - 1), lambda each: each.clamp(float(HALF.tiny), float(HALF.max)).half().float())
    codes = _straight((x - low) / step, torch.round).clamp(0, 2**bits - 1)
    return low + codes * step


def _straight(x: Tensor, rounding: Callable[[Tensor], Tensor]) -> Tensor:
    """rounding(x), with the gradient of x."""
    if not x.requires_grad:
        return rounding(x)
    return x + (rounding(x) - x).detach()
