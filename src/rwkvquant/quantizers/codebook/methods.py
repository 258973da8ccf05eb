"""The methods of one-dimensional codebooks, as the registry calls them."""

from __future__ import annotations

from torch import Tensor

from rwkvquant.codecs import CodebookConfig, CodebookTensor
from rwkvquant.quantizers.codebook.compressed import kmeans_compressed
from rwkvquant.quantizers.codebook.gptvq import ROUNDS, gptvq_with
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.paper import gptvq_paper_with, kmeans_paper
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.hessian import Hessian


def quantize_kmeans(W: Tensor, hessian: Hessian | None, codec: CodebookConfig, options: QuantizerOptions) -> CodebookTensor:
    """Weighted with the Hessian's diagonal where there is one; the paper's way weights all equally."""
    if not options.tuned:
        return kmeans_paper(W, codec.bits, codec.group_rows, rank=codec.rank)
    importance = None if hessian is None else hessian.diagonal
    if codec.rank:
        return kmeans_compressed(W, codec.bits, codec.group_rows, importance=importance, rank=codec.rank)
    return kmeans_codebooks(W, codec.bits, codec.group_rows, importance=importance)


def quantize_gptvq(W: Tensor, hessian: Hessian, codec: CodebookConfig, options: QuantizerOptions) -> CodebookTensor:
    factor, H = hessian.factor(options), hessian.working
    if not options.tuned:
        return gptvq_paper_with(factor, W, H, codec.bits, codec.group_rows, rank=codec.rank)
    return gptvq_with(factor, W, H, codec.bits, codec.group_rows, rank=codec.rank, rounds=ROUNDS if options.refined else 0)
