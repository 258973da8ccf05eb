"""How torch decodes the logical tensors of each codec, to exactly the float32 values of their `decode`.

Tensors of a codec without a decoder here are decoded by NumPy once, and stay in memory as float32.
"""

from rwkvquant.models.decoders import codebook, columnwise, pairs, polar, sections, uniform
from rwkvquant.models.decoders.base import Decoder, decoder_of, register

__all__ = ["Decoder", "codebook", "columnwise", "decoder_of", "pairs", "polar", "register", "sections", "uniform"]
