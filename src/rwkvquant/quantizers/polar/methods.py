"""The methods of directions and magnitudes, as the registry calls them."""

from __future__ import annotations

from torch import Tensor

from rwkvquant.codecs import PolarConfig, PolarTensor
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.polar.feedback import factorize_vectors, feedback_codes
from rwkvquant.quantizers.polar.plain import plain_codes
from rwkvquant.quantizers.shared.hessian import Hessian


def quantize_plain(W: Tensor, hessian: Hessian | None, codec: PolarConfig, options: QuantizerOptions) -> PolarTensor:
    """Needs no Hessian: what is known of the input is not used."""
    return plain_codes(W, codec, options.tuned)


def quantize_feedback(W: Tensor, hessian: Hessian, codec: PolarConfig, options: QuantizerOptions) -> PolarTensor:
    factor = hessian.factor(options, factorize_vectors)
    return feedback_codes(factor, W, hessian.working, codec, options.tuned, options.tuned and options.refined)
