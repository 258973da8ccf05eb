"""Run a model over windows, a batch at a time, and compute the log-probability of every predicted token in float64.

The head is computed for the counted positions only, a run of them at a time. So two arrays have a largest size, for any vocabulary
and any length of a window: the float32 logits of a run (LOGIT_BYTES), and the float64 probabilities of a part of a run (CHUNK_BYTES).
Padding is on the right and masked, and the model is causal. So padding costs time but changes no result.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError, RwkvQuantError, TokenizerError
from rwkvquant.evaluation.windows import END_OF_TEXT, Windows

LOGIT_BYTES = 1 << 27  # 8192 positions x 4096 tokens, or 512 x 65,536; a batch has no more, except if it is a single long window
CHUNK_BYTES = 1 << 24  # smaller parts would fit faster caches, but every operation on a part ends with a barrier between threads
MAX_NLL = 700.0  # nats per token; e^709 is the largest perplexity that a float64 can hold, and no working model comes near it

OnBatch = Callable[[int, int], None]  # (windows done, windows in all), after each batch


class LogitModel(Protocol):
    """Any model that predicts: models.TorchModel, or a small test model with a known answer."""

    def features(self, tokens: torch.Tensor) -> torch.Tensor:
        """tokens (B, T) int64 -> (B, T, C), the input of the head at each position. Causal: position t depends on tokens[:, :t+1] only."""
        ...

    def logits(self, features: torch.Tensor) -> torch.Tensor:
        """(P, C) rows of `features` -> (P, V) float32."""
        ...


@dataclass(frozen=True)
class Batch:
    """Some windows as one array, as long as the longest of them."""

    windows: NDArray[np.int64]  # (B,) their numbers
    inputs: torch.Tensor  # (B, T)
    rows: torch.Tensor  # (P,) the counted positions, as indices into the B * T
    targets: torch.Tensor  # (P,) the tokens to predict there
    place: NDArray[np.int64]  # (P,) their indices among all predicted tokens of the text


@dataclass(frozen=True)
class Scores:
    """The scores of one model for each predicted token, in the order of the text.

    nll (tokens,) float64, negative log-likelihood in nats; top1 (tokens,) bool: the model gave it the highest probability.
    """

    nll: NDArray[np.float64]
    top1: NDArray[np.bool_]


@torch.no_grad()
def score(model: LogitModel, windows: Windows, *, batch: int = 8, progress: OnBatch | None = None, what: str = "the model") -> Scores:
    """Run the model over all windows. `what`: its name in messages.

    Raises TokenizerError for a token outside its vocabulary, RwkvQuantError if it predicts NaN.
    """
    nll, top1 = np.zeros(windows.tokens), np.zeros(windows.tokens, bool)
    vocab = vocabulary(model, windows, what)
    for part in batches(windows, vocab, batch, progress):
        features = counted_features(model, part)
        for run in runs(part, vocab):
            logits = model.logits(features[run])
            targets, place = part.targets[run].to(logits.device), part.place[run]
            for span in spans(len(logits), vocab):
                nll[place[span]] = token_nll(log_probabilities(logits[span]), targets[span]).cpu().numpy()
            top1[place] = (logits.argmax(-1) == targets).cpu().numpy()
    return Scores(checked(nll, what), top1)


def vocabulary(model: LogitModel, windows: Windows, what: str) -> int:
    """The number of tokens the model knows. Raises TokenizerError if the windows hold one it does not know."""
    vocab = model.logits(model.features(torch.tensor([[END_OF_TEXT]]))[0]).shape[-1]
    largest = int(max(windows.inputs.max(), windows.targets.max()))
    if largest >= vocab:
        raise TokenizerError(
            f"every token must be below {vocab}, the vocabulary of {what}; the text gives token {largest}. "
            "Try the tokenizer that the model was trained with."
        )
    return vocab


def batches(windows: Windows, vocab: int, batch: int, progress: OnBatch | None = None) -> Iterator[Batch]:
    """At most `batch` windows of similar length at a time. The longest come first: if memory is too small, it fails at once."""
    if batch < 1:
        raise ConfigError(f"batch must be at least 1 window; got {batch}. Try batch=8.")
    order = np.argsort(-windows.lengths, kind="stable")
    starts, at = windows.starts, 0
    while at < len(order):
        length = int(windows.lengths[order[at]])
        chosen = order[at : at + max(1, min(batch, LOGIT_BYTES // (4 * length * vocab)))]
        mask = windows.mask[chosen, :length]
        place = starts[chosen, None] + np.cumsum(mask, 1) - 1
        yield Batch(
            windows=chosen,
            inputs=torch.from_numpy(windows.inputs[chosen, :length]),
            rows=torch.from_numpy(np.flatnonzero(mask)),
            targets=torch.from_numpy(windows.targets[chosen, :length][mask]),
            place=place[mask],
        )
        at += len(chosen)
        if progress is not None:
            progress(at, len(order))


def counted_features(model: LogitModel, batch: Batch) -> torch.Tensor:
    """The features (P, C) of the counted positions."""
    features = model.features(batch.inputs)
    return features.reshape(-1, features.shape[-1])[batch.rows.to(features.device)]


def runs(batch: Batch, vocab: int) -> Iterator[slice]:
    """Split the counted positions into runs whose logits take at most LOGIT_BYTES."""
    step = max(1, LOGIT_BYTES // (4 * vocab))
    for start in range(0, len(batch.rows), step):
        yield slice(start, start + step)


def spans(count: int, vocab: int) -> Iterator[slice]:
    """Split `count` positions into parts whose float64 probabilities take at most CHUNK_BYTES."""
    step = max(1, CHUNK_BYTES // (8 * vocab))
    for start in range(0, count, step):
        yield slice(start, start + step)


def log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    """(P, V) logits -> (P, V) float64 log-probabilities."""
    return torch.log_softmax(logits, -1, dtype=torch.float64)


def token_nll(log_p: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(P, V), (P,) -> (P,) negative log-likelihood of the targets, nats."""
    return -log_p.gather(-1, targets[:, None])[:, 0]


def checked(nll: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    """`nll` itself. Raises RwkvQuantError if it holds NaN or infinity."""
    if not np.isfinite(nll).all():
        raise RwkvQuantError(
            f"a model's predictions must be finite numbers; those of {what} are not. "
            "Its weights may be damaged, or they overflow; try rwkvquant verify on the file."
        )
    return nll


def perplexity_of(mean_nll: float) -> float:
    """exp(mean_nll), with mean_nll in nats. Raises RwkvQuantError above MAX_NLL, where exp overflows."""
    if not mean_nll <= MAX_NLL:
        raise RwkvQuantError(
            f"perplexity needs a mean of at most {MAX_NLL:.0f} nats per token; the model gave {mean_nll:.4g}. "
            "Its weights may be damaged, or they overflow; try rwkvquant verify on the file."
        )
    return math.exp(mean_nll)
