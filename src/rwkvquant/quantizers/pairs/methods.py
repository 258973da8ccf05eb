"""The methods of two-dimensional codebooks, as the registry calls them."""

from __future__ import annotations

from torch import Tensor

from rwkvquant.codecs import PairCodebookTensor, PairConfig
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.pairs.gptvq import ROUNDS, factorize_pairs, gptvq_pairs_with, pair_codebooks
from rwkvquant.quantizers.shared.hessian import Hessian


def quantize_kmeans(W: Tensor, hessian: Hessian | None, codec: PairConfig, options: QuantizerOptions) -> PairCodebookTensor:
    """Weighted with the Hessian's diagonal if there is one and the style is "tuned"."""
    importance = hessian.diagonal if hessian is not None and options.tuned else None
    return pair_codebooks(W, codec.bits, codec.group_rows, importance)


def quantize_gptvq(W: Tensor, hessian: Hessian, codec: PairConfig, options: QuantizerOptions) -> PairCodebookTensor:
    factor = hessian.factor(options, factorize_pairs)
    return gptvq_pairs_with(factor, W, hessian.working, codec.bits, codec.group_rows, ROUNDS if options.refined else 0)
