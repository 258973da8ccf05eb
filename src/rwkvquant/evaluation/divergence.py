"""How quantisation changed a model's predictions: KL divergence from the original, same top token, change of perplexity.

    p_i, q_i   the next-token distributions of the original ("base") and of the quantised model after the same tokens, i = 1..N
    KL         1/N sum_i sum_v p_i(v) (ln p_i(v) - ln q_i(v))          nats per token, in float64 from float32 logits
    agreement  1/N #{i : argmax p_i = argmax q_i}

Both models read the same windows; logits are kept for one run of positions only. The base runs once for any number of candidates.
Limits: all candidates of one call are in memory, and the base's predictions are not kept for a later call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.errors import TokenizerError
from rwkvquant.evaluation.bootstrap import RESAMPLES, interval, resampled_means
from rwkvquant.evaluation.positions import PositionSums
from rwkvquant.evaluation.scoring import (
    LogitModel,
    OnBatch,
    batches,
    checked,
    counted_features,
    log_probabilities,
    perplexity_of,
    runs,
    spans,
    token_nll,
    vocabulary,
)
from rwkvquant.evaluation.windows import Windows
from rwkvquant.results import CompareResult


@dataclass(frozen=True)
class Comparison:
    """One candidate compared with the base, for each predicted token in the order of the text. All arrays are (tokens,).

    `kl`, `nll_base`, `nll_quantized` in nats; `same_top1`: both models give the highest probability to the same token.
    """

    windows: Windows
    kl: NDArray[np.float64]
    same_top1: NDArray[np.bool_]
    nll_base: NDArray[np.float64]
    nll_quantized: NDArray[np.float64]

    @cached_property
    def window_sums(self) -> NDArray[np.float64]:
        """(4, windows): KL, same top token, nll of the base, nll of the quantised model."""
        return np.stack([self.windows.sums(v.astype(np.float64)) for v in (self.kl, self.same_top1, self.nll_base, self.nll_quantized)])

    def result(self, *, resamples: int = RESAMPLES, seed: int = 0) -> CompareResult:
        """The numbers and their conditions."""
        kl, top1, nll_base, nll_quantized = resampled_means(self.window_sums, self.windows.tokens_each, resamples=resamples, seed=seed)
        ppl_base, ppl_quantized = perplexity_of(self.nll_base.mean()), perplexity_of(self.nll_quantized.mean())
        return CompareResult(
            kl_mean=float(self.kl.mean()),
            kl_ci95=interval(kl, len(self.windows)),
            kl_p99=float(np.quantile(self.kl, 0.99)),
            kl_max=float(self.kl.max()),
            top1_agreement=float(self.same_top1.mean()),
            top1_ci95=interval(top1, len(self.windows)),
            ppl_base=ppl_base,
            ppl_quantized=ppl_quantized,
            delta_ppl=ppl_quantized - ppl_base,
            delta_ppl_ci95=interval(np.exp(nll_quantized) - np.exp(nll_base), len(self.windows)),
            tokens=self.windows.tokens,
            windows=len(self.windows),
            windows_sha256=self.windows.sha256(),
            resamples=resamples,
            seed=seed,
            kl_by_position=self.by_position().rows(resamples=resamples, seed=seed),
        )

    def by_position(self) -> PositionSums:
        """KL and the original's nll by the position of a token in its window."""
        return PositionSums.of(self.windows, self.kl, self.nll_base)

    def to_json(self, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
        """`result` as plain JSON."""
        return self.result(resamples=resamples, seed=seed).to_json()


def compare(base: LogitModel, quantized: LogitModel, windows: Windows, *, batch: int = 8, progress: OnBatch | None = None) -> Comparison:
    """Compare one quantised model with its original. Raises the errors of compare_many."""
    return compare_many(base, {"the quantised model": quantized}, windows, batch=batch, progress=progress)["the quantised model"]


@torch.no_grad()
def compare_many(
    base: LogitModel, models: Mapping[str, LogitModel], windows: Windows, *, batch: int = 8, progress: OnBatch | None = None
) -> dict[str, Comparison]:
    """Compare every model with `base` over the same windows. The base runs once.

    Raises TokenizerError for a token outside a vocabulary or vocabularies that differ, RwkvQuantError if a model predicts NaN.
    """
    vocab = vocabulary(base, windows, "the original")
    for name, model in models.items():
        if (other := vocabulary(model, windows, name)) != vocab:
            raise TokenizerError(f"models can be compared only over one vocabulary; the original has {vocab} tokens and {name} has {other}")
    shape = windows.tokens
    nll_base = np.zeros(shape)
    results = {name: Comparison(windows, np.zeros(shape), np.zeros(shape, bool), nll_base, np.zeros(shape)) for name in models}
    for part in batches(windows, vocab, batch, progress):
        base_features = counted_features(base, part)
        features = {name: counted_features(model, part) for name, model in models.items()}
        for run in runs(part, vocab):
            base_logits, place = base.logits(base_features[run]), part.place[run]
            targets = part.targets[run].to(base_logits.device)
            for name, model in models.items():
                logits, result = model.logits(features[name][run]).to(base_logits.device), results[name]
                for span in spans(len(logits), vocab):
                    at = place[span]
                    # ln p is computed again for each candidate: cheap compared with a forward; keeping it takes twice the logits' memory.
                    log_p, log_q = log_probabilities(base_logits[span]), log_probabilities(logits[span])
                    nll_base[at] = token_nll(log_p, targets[span]).cpu().numpy()
                    result.nll_quantized[at] = token_nll(log_q, targets[span]).cpu().numpy()
                    result.kl[at] = kl_divergence(log_p, log_q).cpu().numpy()
                result.same_top1[place] = (base_logits.argmax(-1) == logits.argmax(-1)).cpu().numpy()
    for name, result in results.items():
        checked(nll_base, "the original")
        checked(result.nll_quantized + result.kl, name)
    return results


def kl_divergence(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """(P, V) finite log-probabilities, twice -> (P,) sum_v p (ln p - ln q)."""
    return torch.linalg.vecdot(log_p.exp(), log_p - log_q)


def difference(first: Comparison, second: Comparison, *, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Any]:
    """Is `first` nearer to the base than `second`? Yes, if the difference is negative and its whole interval is below zero.

    Paired: both must come from the same windows (asserted).
    """
    assert first.windows.sha256() == second.windows.sha256(), "a paired difference needs the same windows"
    sums = np.concatenate([first.window_sums, second.window_sums])
    kl_1, _, _, nll_1, kl_2, _, _, nll_2 = resampled_means(sums, first.windows.tokens_each, resamples=resamples, seed=seed)
    ppl_1, ppl_2 = perplexity_of(first.nll_quantized.mean()), perplexity_of(second.nll_quantized.mean())
    return {
        "kl_difference": float(first.kl.mean() - second.kl.mean()),
        "kl_difference_ci95": _listed(interval(kl_1 - kl_2, len(first.windows))),
        "ppl_difference": ppl_1 - ppl_2,
        "ppl_difference_ci95": _listed(interval(np.exp(nll_1) - np.exp(nll_2), len(first.windows))),
        "tokens": first.windows.tokens,
        "windows": len(first.windows),
        "resamples": resamples,
        "seed": seed,
    }


def _listed(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else list(pair)
