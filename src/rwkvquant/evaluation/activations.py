"""Which activation a tensor meets, and how its values are distributed (RWKVQuant's Figure 4, docs/methods/elementwise.md)."""

from __future__ import annotations

import importlib.resources
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Role, TensorSpec
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import ConfigError

if TYPE_CHECKING:  # it imports torch
    from rwkvquant.calibration.activations import Distribution
    from rwkvquant.models import Stages

CHANNELS = 8  # so many of the largest are shown
SHOWN_MATCHES = 3


@dataclass(frozen=True)
class Meeting:
    """A tensor and the activation that it is multiplied with, as architectures/ names it; `index`: which slice of both."""

    tensor: str
    spec: TensorSpec
    layer: int | None
    index: int | None = None

    @property
    def activation(self) -> str:
        name = self.spec.input or self.spec.partner
        assert name is not None
        return name


def find_meeting(checkpoint: Checkpoint, pattern: str) -> Meeting:
    """The one tensor that has this name, or whose name matches the pattern. Raises ConfigError for none, and for several."""
    from rwkvquant.selection.policy import matching_names, near_names

    meetings = {}
    for name, spec, layer in checkpoint.specs():
        if spec.role is not Role.EMBEDDING and (spec.input is not None or spec.partner is not None):
            slices = range(checkpoint.tensors[name].shape[0]) if spec.slices else [None]
            for index in slices:
                tensor = name if index is None else f"{name}.{index}"
                meetings[tensor] = Meeting(tensor, spec, layer, index)
    if pattern in meetings:
        return meetings[pattern]
    matched = matching_names(pattern, list(meetings))
    if len(matched) == 1:
        return meetings[matched[0]]
    if matched:
        more = ", ..." if len(matched) > SHOWN_MATCHES else ""
        raise ConfigError(f"{pattern!r} matches {len(matched)} names, {', '.join(matched[:SHOWN_MATCHES])}{more}; give one of them")
    raise ConfigError(
        f"{checkpoint.path}: no name of a matrix or element-wise vector matches {pattern!r} (norms, biases and the embedding are "
        f"not multiplied with an activation that can be shown). {near_names(pattern, list(meetings))}"
    )


def tokens_of(checkpoint: Checkpoint, text: str | None, tokenizer: str | None, rows: int, length: int) -> NDArray[np.int64]:
    """`text`: None for the calibration text in the package."""
    from rwkvquant.calibration.samples import calibration_rows, load_documents
    from rwkvquant.runtime.tokenizer import load_tokenizer

    documents = load_documents(text or str(importlib.resources.files("rwkvquant") / "assets" / "calibration.txt"))
    chosen = load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    return calibration_rows(documents, chosen, rows, length, option="--length")


def met(checkpoint: Checkpoint, meeting: Meeting, read: NDArray[Any], stages: Stages | None = None) -> tuple[Distribution, dict[str, Any]]:
    """`read`: tokens (rows, length), or images, with `stages` -> the distribution, and the same as JSON with what was read."""
    from rwkvquant.calibration.activations import collect_activation, distribution
    from rwkvquant.calibration.statistics.importance import PERCENTILE
    from rwkvquant.models import CheckpointSource

    X = collect_activation(CheckpointSource(checkpoint), read, meeting.layer, meeting.activation, meeting.index, stages=stages)
    found = distribution(X, PERCENTILE)
    return found, {**_described(meeting, X.shape), **to_json(found, PERCENTILE)}


def to_json(found: Distribution, clip_percentile: float) -> dict[str, Any]:
    """docs/methods/elementwise.md explains the keys."""
    total = float(found.mean_square.sum())
    return {
        "values": found.count,
        "mean": found.mean,
        "std": found.std,
        "min": found.low,
        "max": found.high,
        "zeros": found.zeros,
        "kurtosis": None if math.isnan(found.kurtosis) else found.kurtosis,
        "percentiles": {f"{p:g}": value for p, value in found.percentiles.items()},
        "clip": {"percentile": clip_percentile, "low": found.clip_low, "high": found.clip_high, "share": found.clip_share},
        "histogram": {"edges": found.edges.tolist(), "counts": found.counts.tolist(), "normal": found.normal.tolist()},
        "channels": [
            {"channel": c, "mean_square": float(found.mean_square[c]), "share": float(found.mean_square[c]) / total if total else 0.0}
            for c in found.largest_channels(CHANNELS)
        ],
    }


def _described(met: Meeting, shape: tuple[int, ...]) -> dict[str, Any]:
    rows, length, width = shape
    meets = "input" if met.spec.input else "partner"
    return {"tensor": met.tensor, "activation": met.activation, "meets": meets, "rows": rows, "length": length, "width": width}
