"""plan.json: the results of pass 1, block by block, and the choice made from them. It is the journal of pass 1 (work_dir.py). Its state:

    {"complete": false, "backward": ..., "tensors": {name: {weights, proxies, incoherence, candidates}}}
    {"complete": true, "tensors": {name: {weights, proxies, incoherence, candidates, chosen}}}

Another budget with the same work directory finds it complete and skips pass 1.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.recipes.setting import Setting

NUMBERS = ("stored_bytes", "loss", "relative_error", "mse", "kl")  # of a candidate, next to its setting


@dataclass(frozen=True)
class Candidate:
    """loss: nats per token. relative_error: tr(E H E^T) / tr(W H W^T). Both for the whole matrix, from a sample of its rows.

    mse, kl: where a selector asked for them (evidence.py), |W - Q|^2 / |W|^2 of plain rounding, and the KL divergence in nats per token of
    the model with this matrix alone quantised.
    """

    setting: Setting
    stored_bytes: int
    loss: float
    relative_error: float
    mse: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Measured:
    """A matrix after pass 1. proxies: reading -> [P_c, P_f of K = 2..6 as Eq. (17), the same with s_k kept, other statistics of the
    gaps]; incoherence: mu of QuIP.

    Large matrices may have no proxies (measure.py): evidence.py computes them for a rule that needs them.
    """

    name: str
    weights: int
    proxies: dict[str, dict[str, Any]]
    incoherence: float
    candidates: tuple[Candidate, ...]


def to_json(measured: Mapping[str, Measured], chosen: Mapping[str, Setting] | None = None) -> dict[str, Any]:
    tensors = {}
    for name, matrix in measured.items():
        entry = dataclasses.asdict(matrix) | ({"chosen": chosen[name].to_json()} if chosen else {})
        del entry["name"]
        entry["candidates"] = [
            {**c.setting.to_json(), **{name: value for name in NUMBERS if (value := getattr(c, name)) is not None}}
            for c in matrix.candidates
        ]
        tensors[name] = entry
    return tensors


def from_json(tensors: Any) -> dict[str, Measured] | None:
    """None where this is not what `to_json` gives."""
    try:
        return {name: _measured(name, entry) for name, entry in tensors.items()}
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError):
        return None


def _measured(name: str, entry: dict[str, Any]) -> Measured:
    candidates = tuple(
        Candidate(
            Setting.from_json({key: value for key, value in candidate.items() if key not in NUMBERS}),
            int(candidate["stored_bytes"]),
            float(candidate["loss"]),
            float(candidate["relative_error"]),
            **{name: float(candidate[name]) for name in ("mse", "kl") if name in candidate},
        )
        for candidate in entry["candidates"]
    )
    return Measured(name, int(entry["weights"]), entry["proxies"], float(entry["incoherence"]), candidates)
