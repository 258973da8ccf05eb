"""Selectors that quantise a tensor both ways, and ask what SQ loses more than VQ at equal stored bits.

    mse      |W - Q|^2 / |W|^2, rounded without error feedback: Table 6 of RWKVQuant
    hessian  tr(E H E^T) / tr(W H W^T), E = W - Q with error feedback: of the outputs, without what the model makes of them
    nats     the loss in nats per token, to second order (calibration/sensitivity.py)
    kl       the KL divergence of the model in which this tensor alone is quantised, measured

If tensors of a given share of all weights get SQ, the sum of losses is least if they are those of least (SQ - VQ) for each weight. `mse`
and `hessian` are parts of a tensor's own energy. Times its number of weights they are its loss, if all tensors are equally sensitive; so
for each weight they are the parts themselves.
"""

from __future__ import annotations

from rwkvquant.selection.selectors.registry import Evidence, Scores, Selector, of_each


def _difference(measure: str) -> Scores:
    def score(one: Evidence) -> float:
        sq, vq = one.losses[measure]
        return sq - vq

    return of_each(score)


def _difference_by_weight(measure: str) -> Scores:
    def score(one: Evidence) -> float:
        sq, vq = one.losses[measure]
        return (sq - vq) / one.weights

    return of_each(score)


ALL = (
    Selector("mse", "plain rounding errors", _difference("mse"), measures="mse"),
    Selector("hessian", "Hessian-weighted errors", _difference("hessian")),
    Selector("nats", "losses in nats", _difference_by_weight("nats")),
    Selector("kl", "KL of the model, measured; for small models of text", _difference_by_weight("kl"), measures="kl"),
)
