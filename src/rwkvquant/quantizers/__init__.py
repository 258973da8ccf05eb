"""Quantisers: pure functions that turn a weight, and what is known of its input, into codes and tables.

They never see tiles, names or files.

    registry.py    a method's name and a codec's parameters -> its quantiser        options.py    how quantisers work
    uniform/       grids: rtn, gptq                 codebook/     one-dimensional codebooks: kmeans, gptvq
    pairs/         two-dimensional codebooks        columnwise/   matrices stored by columns: kmeans, gptvq
    polar/         directions and magnitudes: pcdvq, ldlq     elementwise/   the vectors of element-wise products
    rowtables/     one table for each row: kmeans, lnq        vectors/       rows of one column, and what is left: kmeans, vptq
    shared/        what several methods need: the factor of H, residuals, descent, losses

Importing this package does not load torch, so that recipes can ask which methods there are.
"""

from rwkvquant.quantizers import codebook, columnwise, elementwise, pairs, polar, rowtables, uniform, vectors
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.registry import Quantizer, methods_for, quantizer_for, quantizers, register, unregister

__all__ = [
    "Quantizer",
    "QuantizerOptions",
    "codebook",
    "columnwise",
    "elementwise",
    "methods_for",
    "pairs",
    "polar",
    "quantizer_for",
    "quantizers",
    "register",
    "rowtables",
    "uniform",
    "unregister",
    "vectors",
]
