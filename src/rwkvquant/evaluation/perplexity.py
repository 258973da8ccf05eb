"""Perplexity of a model on a text: exp of the mean negative log-likelihood of its tokens.

nll = -1/N sum_i ln p(token_i | the tokens before it in its window)        ppl = exp(nll)
bits_per_byte = N nll / (ln 2 * bytes of the text)                          comparable between tokenizers; ppl is not
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.evaluation.scoring import LogitModel, OnBatch, perplexity_of, score
from rwkvquant.evaluation.windows import Windows


@dataclass(frozen=True)
class Perplexity:
    """token_nll (tokens,) in nats, in the order of the text."""

    windows: Windows
    token_nll: NDArray[np.float64]

    @property
    def window_nll(self) -> NDArray[np.float64]:
        """(windows,) sums, for a bootstrap."""
        return self.windows.sums(self.token_nll)

    @property
    def nll(self) -> float:
        return float(self.token_nll.mean())

    @property
    def ppl(self) -> float:
        return perplexity_of(self.nll)

    @property
    def bits_per_byte(self) -> float:
        return float(self.token_nll.sum()) / (math.log(2) * self.windows.text_bytes)

    def to_json(self) -> dict[str, Any]:
        return {
            "ppl": self.ppl,
            "nll": self.nll,
            "bits_per_byte": self.bits_per_byte,
            "tokens": self.windows.tokens,
            "windows": len(self.windows),
        }


def perplexity(model: LogitModel, windows: Windows, *, batch: int = 8, progress: OnBatch | None = None) -> Perplexity:
    """Raises TokenizerError for a token outside the model's vocabulary, RwkvQuantError if the model predicts NaN."""
    return Perplexity(windows, score(model, windows, batch=batch, progress=progress).nll)
