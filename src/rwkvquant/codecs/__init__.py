"""Codecs: how the weights of a tensor become codes and tables, how these are stored in a file, and what they decode to.

Each codec is one file with its parameters, its logical tensor and its object. `register` makes the object known to the rest of the
project (base.py says what it owns). A logical tensor is what a quantiser returns. It does not depend on tiles, files or bytes.

    rows, cols   the matrix as (out, in); a vector of C elements is (1, C)
    groups       ceil(cols / group_size); the last group of a row may be short
"""

from rwkvquant.codecs.base import Codec, CodecConfig, NativeForm, QTensor
from rwkvquant.codecs.codebook import CodebookConfig, CodebookFactors, CodebookTensor
from rwkvquant.codecs.columnwise import ColumnwiseConfig, ColumnwiseTensor
from rwkvquant.codecs.dense import DenseConfig, DenseTensor
from rwkvquant.codecs.packing import ALIGNMENT, PackedTensor, Packing
from rwkvquant.codecs.pairs import PairCodebookTensor, PairConfig
from rwkvquant.codecs.polar import PolarConfig, PolarTensor
from rwkvquant.codecs.registry import codec_of, codec_of_layout, codecs, config_from_json, layout_ids, register, unregister
from rwkvquant.codecs.rowtables import RowTablesConfig, RowTablesTensor
from rwkvquant.codecs.sections import SectionsConfig, SectionsTensor
from rwkvquant.codecs.uniform import GridConfig, UniformTensor
from rwkvquant.codecs.vectors import VectorsConfig, VectorsTensor
from rwkvquant.kernels.gemv_codebook import CENTROID_ZERO

__all__ = [
    "ALIGNMENT",
    "CENTROID_ZERO",
    "CodebookConfig",
    "CodebookFactors",
    "CodebookTensor",
    "Codec",
    "CodecConfig",
    "ColumnwiseConfig",
    "ColumnwiseTensor",
    "DenseConfig",
    "DenseTensor",
    "GridConfig",
    "NativeForm",
    "PackedTensor",
    "Packing",
    "PairCodebookTensor",
    "PairConfig",
    "PolarConfig",
    "PolarTensor",
    "QTensor",
    "RowTablesConfig",
    "RowTablesTensor",
    "SectionsConfig",
    "SectionsTensor",
    "UniformTensor",
    "VectorsConfig",
    "VectorsTensor",
    "codec_of",
    "codec_of_layout",
    "codecs",
    "config_from_json",
    "layout_ids",
    "register",
    "unregister",
]
