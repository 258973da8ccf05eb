"""Figure 4 of RWKVQuant: how the activation that a vector is multiplied with is distributed, "normal with outliers".

`tensor` is a matrix or an element-wise vector, by its name or by a pattern that one name matches. A percentile of each row clips the
activation before the paper's weights of Eq. (19) are computed; where the clip lies is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvquant.checkpoints import Checkpoint, open_text_checkpoint
from rwkvquant.config import CalibrationConfig
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.activations import Meeting, find_meeting, met, tokens_of
from rwkvquant.lab.hashes import calibration_json, tokenizer_sha256
from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies.study import Line, Study, label_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel

FAR = 4  # standard deviations


@dataclass(frozen=True)
class Activation(Study):
    tensor: str = ""
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    name = "activation"
    about = (
        "The values that the tensor is multiplied with. Kurtosis: 3 for a normal distribution, of which 0.006 % lie beyond 4 deviations. "
        "Clip: at 99 % of each row, in deviations from the mean, and how many values it changes."
    )

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, str) or not self.tensor:
            raise ConfigError("the study activation needs a tensor: a name, or a pattern that one name matches")

    def question(self, model: LabModel) -> dict[str, Any]:
        from rwkvquant.runtime.tokenizer import load_tokenizer

        checkpoint, meeting = self._meeting(model)
        tokenizer = load_tokenizer(model.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
        return {
            **checkpoint.made_from(),
            "kind": self.name,
            "tensor": meeting.tensor,
            "tokenizer": tokenizer_sha256(tokenizer.to_data()),
            "calibration": calibration_json(self.calibration),
        }

    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        checkpoint, meeting = self._meeting(model)
        text = self.calibration
        return met(checkpoint, meeting, tokens_of(checkpoint, text.path, model.tokenizer, text.rows, text.length))[1]

    def _meeting(self, model: LabModel) -> tuple[Checkpoint, Meeting]:
        checkpoint = open_text_checkpoint(model.checkpoint)
        return checkpoint, find_meeting(checkpoint, self.tensor)

    @staticmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        lines = []
        for row in rows:
            found, clip = row.results, row.results["clip"]
            std = found["std"] or 1.0
            numbers = {
                "tensor": found["tensor"],
                "activation": found["activation"],
                "kurtosis": found["kurtosis"],
                "zeros, %": 100 * found["zeros"],
                "beyond 4 deviations, %": 100 * share_beyond(found),
                "clip, low": (clip["low"] - found["mean"]) / std,
                "clip, high": (clip["high"] - found["mean"]) / std,
                "clipped, %": 100 * clip["share"],
            }
            lines.append(Line(label_of(row, rows), numbers))
        return lines

    @staticmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        from matplotlib.figure import Figure

        from rwkvquant.lab.distribution import INCHES, draw_row

        figure = Figure(figsize=(INCHES[0], INCHES[1] * len(rows)), layout="constrained")
        for axes, row in zip(figure.subplots(len(rows), 2, squeeze=False), rows, strict=True):
            draw_row(axes, row.results)
            axes[0].set_title(f"{label_of(row, rows)}: {row.results['activation']}", fontsize="medium")
        return figure


def share_beyond(found: Mapping[str, Any]) -> float:
    """Of the values, 0 to 1, beyond FAR deviations; the histogram has an edge there, if there are values beyond it."""
    edges, counts = (np.array(found["histogram"][name]) for name in ("edges", "counts"))
    middles = (edges[1:] + edges[:-1]) / 2
    return float(counts[np.abs(middles - found["mean"]) > FAR * found["std"]].sum() / counts.sum())
