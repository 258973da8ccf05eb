"""Codecs: how the weights of a tensor become codes and tables, and what these decode to.

A logical tensor is what a quantiser returns. Nothing in it knows tiles, files or bytes.

    rows, cols   the matrix as (out, in); a vector of C elements is (1, C)
    groups       ceil(cols / group_size); the last group of a row may be short
"""

from rwkvquant.codecs.codebook import CodebookConfig, CodebookFactors, CodebookTensor
from rwkvquant.codecs.dense import DenseTensor
from rwkvquant.codecs.pairs import PairCodebookTensor, PairConfig
from rwkvquant.codecs.uniform import GridConfig, UniformTensor
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO

Codec = GridConfig | CodebookConfig | PairConfig
QTensor = UniformTensor | CodebookTensor | PairCodebookTensor | DenseTensor

__all__ = [
    "CENTROID_ZERO",
    "CodebookConfig",
    "CodebookFactors",
    "CodebookTensor",
    "Codec",
    "DenseTensor",
    "GridConfig",
    "PairCodebookTensor",
    "PairConfig",
    "QTensor",
    "UniformTensor",
]
