"""How torch decodes the logical tensors of each codec, to the very float32 that their own `decode` defines.

A codec without a decoder here is decoded by NumPy once, and its weights stay in float32.
"""

from rwkvquant.models.decoders import codebook, pairs, uniform
from rwkvquant.models.decoders.base import Decoder, decoder_of, register

__all__ = ["Decoder", "codebook", "decoder_of", "pairs", "register", "uniform"]
