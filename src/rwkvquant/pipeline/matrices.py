"""One matrix by one setting: the options are taken apart here, and the quantisers are called with what they ask for."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rwkvquant.codecs import CodebookConfig, CodebookTensor, GridConfig, PairCodebookTensor, PairConfig, UniformTensor
from rwkvquant.config import QuantizeConfig
from rwkvquant.quantizers.codebook.compressed import kmeans_compressed
from rwkvquant.quantizers.codebook.gptvq import ROUNDS, gptvq_with
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.paper import gptvq_paper_with, kmeans_paper
from rwkvquant.quantizers.pairs.gptvq import ROUNDS as PAIR_ROUNDS
from rwkvquant.quantizers.pairs.gptvq import factorize_pairs, gptvq_pairs_with, pair_codebooks
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.uniform.gptq import gptq_with
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid
from rwkvquant.recipes.setting import Setting

CHUNK_WEIGHTS = 1 << 24  # that error feedback works on at a time
ROW_BLOCK = 16  # rows of a matrix do not depend on one another, but for those that share a codebook

Quantised = UniformTensor | CodebookTensor | PairCodebookTensor


class Hessian:
    """H (in, in) of one activation, and its factors, made when they are first asked for: products with the same input share them."""

    def __init__(self, H: Tensor, config: QuantizeConfig, dtype: torch.dtype) -> None:
        self.H = H
        self._config, self._dtype = config, dtype

    @property
    def diagonal(self) -> Tensor:
        return self.H.diagonal()

    @cached_property
    def working(self) -> Tensor:
        """H in the type that weights are worked on in."""
        return self.H.to(self._dtype)

    @cached_property
    def factor(self) -> InverseFactor:
        return factorize(self.working, damping=float(self._config.damping or 0), act_order=bool(self._config.act_order))

    @cached_property
    def factor_of_pairs(self) -> InverseFactor:
        return factorize_pairs(self.working, damping=float(self._config.damping or 0), act_order=bool(self._config.act_order))


def quantise_matrix(setting: Setting, config: QuantizeConfig, W: Tensor, hessian: Hessian | None, refined: bool = True) -> Quantised:
    """W (out, in) float32 and what is known of its input. Only settings without feedback can do without.

    `refined`: scales or codebooks and codes in turn, in the tuned style: 5 to 10 % less loss, for several times the time.
    """
    codec: Any = setting.codec
    tuned = config.style == "tuned"
    diagonal = None if hessian is None else hessian.diagonal
    if setting.method == "rtn":
        assert isinstance(codec, GridConfig)
        clip = "weight" if config.clip_search == "hessian" and diagonal is None else config.clip_search or "none"
        return rtn(W, codec, clip, diagonal)
    if setting.method == "kmeans":
        return _kmeans(codec, tuned, W, diagonal if tuned else None)
    assert hessian is not None, f"{setting.method} needs the Hessian of the input"
    if isinstance(codec, GridConfig):
        clip = config.clip_search or "none"
        parts = []
        for part in W.split(max(1, CHUNK_WEIGHTS // W.shape[1])):  # rows do not depend on one another, and a head has many
            found = gptq_with(hessian.factor, part, codec, clip_search=clip, static_groups=bool(config.act_order))
            parts.append(refine_grid(part, hessian.working, found) if tuned and refined else found)
        return join_rows(parts)
    if isinstance(codec, PairConfig):
        return gptvq_pairs_with(hessian.factor_of_pairs, W, hessian.working, codec.bits, codec.group_rows, PAIR_ROUNDS if refined else 0)
    if not tuned:
        return gptvq_paper_with(hessian.factor, W, hessian.working, codec.bits, codec.group_rows, rank=codec.rank)
    return gptvq_with(hessian.factor, W, hessian.working, codec.bits, codec.group_rows, rank=codec.rank, rounds=ROUNDS if refined else 0)


def _kmeans(codec: object, tuned: bool, W: Tensor, importance: Tensor | None) -> Quantised:
    if isinstance(codec, PairConfig):
        return pair_codebooks(W, codec.bits, codec.group_rows, importance)
    assert isinstance(codec, CodebookConfig)
    if not tuned:
        return kmeans_paper(W, bits=codec.bits, group_rows=codec.group_rows, rank=codec.rank)
    if codec.rank:
        return kmeans_compressed(W, codec.bits, codec.group_rows, importance=importance, rank=codec.rank)
    return kmeans_codebooks(W, codec.bits, codec.group_rows, importance=importance)


def sampled_rows(shape: tuple[int, ...], weights: int) -> Tensor:
    """Whole blocks of 16 rows, evenly spread, of about so many weights, and two at least; all rows of a small matrix."""
    rows, cols = shape
    blocks = -(-rows // ROW_BLOCK)
    chosen = min(blocks, max(2, weights // (ROW_BLOCK * cols)))
    starts = np.linspace(0, blocks - 1, chosen).round().astype(int) * ROW_BLOCK
    return torch.cat([torch.arange(start, min(start + ROW_BLOCK, rows)) for start in starts])


def join_rows(parts: list[UniformTensor]) -> UniformTensor:
    """The rows of all parts, one below the other."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    arrays: dict[str, Any] = {name: joined(name) for name in ("codes", "zeros", "scales", "scale_codes", "row_scale")}
    return replace(parts[0], **arrays)
