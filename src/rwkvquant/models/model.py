"""A whole model in torch: embedding, every block, head."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from rwkvquant.errors import ConfigError, TokenizerError
from rwkvquant.models.layers import BlockState
from rwkvquant.models.source import WeightSource

ModelState = tuple[BlockState, ...]


def forward_of(arch: str) -> ModuleType:
    """The module models/<arch>.py, with `embed`, `block` and `head`. Raises ConfigError for an architecture without one."""
    try:
        return import_module(f"rwkvquant.models.{arch}")
    except ModuleNotFoundError as error:
        if error.name != f"rwkvquant.models.{arch}":
            raise
        raise ConfigError(f"there is no torch forward for {arch}: it can be read and packed, but not run in torch") from None


class TorchModel:
    """Reads every weight at the first call that needs it, and keeps it in memory. Calls do not change the state that they get."""

    def __init__(self, source: WeightSource) -> None:
        self.arch, self.dims = source.arch, source.dims
        self._source = source
        self._blocks: dict[int, dict[str, Any]] = {}

    @torch.no_grad()
    def forward(self, tokens: Tensor, state: Sequence[BlockState] | None = None) -> tuple[Tensor, ModelState]:
        """tokens (B, T) int64, T at least 1 -> logits (B, T, V) float32, and the state after the last token, one BlockState for each block.

        Raises TokenizerError for a token outside of the vocabulary.
        """
        x, after = self._read(tokens, state)
        return forward_of(self.arch).head(self._globals, x), after

    @torch.no_grad()
    def features(self, tokens: Tensor) -> Tensor:
        """tokens (B, T) int64 -> features (B, T, C); `logits` computes the logits of any positions from them. Raises as `forward` does."""
        return self._read(tokens, None)[0]

    @torch.no_grad()
    def logits(self, features: Tensor) -> Tensor:
        """(P, C) rows of `features` -> (P, V) float32: the head is the largest product, and often only few positions need it."""
        logits: Tensor = forward_of(self.arch).head(self._globals, features[None])
        return logits[0]

    def _read(self, tokens: Tensor, state: Sequence[BlockState] | None) -> tuple[Tensor, ModelState]:
        """The output of the last block, (B, T, C), and the state."""
        if tokens.numel() and not 0 <= int(tokens.min()) <= int(tokens.max()) < self.dims.vocab:
            raise TokenizerError(f"tokens must lie in 0 to {self.dims.vocab - 1}; got {int(tokens.min())} to {int(tokens.max())}")
        module = forward_of(self.arch)
        x, carry = module.embed(self._globals, tokens.to(self._device)), None
        after = []
        for layer in range(self.dims.layers):
            x, block_state, carry = module.block(self._block(layer), x, None if state is None else state[layer], carry)
            after.append(block_state)
        return x, tuple(after)

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return self._source.globals()

    @property
    def _device(self) -> torch.device:
        return next(weight.device for weight in self._globals.values() if isinstance(weight, Tensor))  # norms are never codes

    def _block(self, layer: int) -> dict[str, Any]:
        if layer not in self._blocks:
            self._blocks[layer] = self._source.block(layer)
        return self._blocks[layer]
