"""The calibration text as tokens: rows that quantisers see, and rows of other documents, kept out to judge them by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.errors import CalibrationError
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Recipe
from rwkvquant.runtime.tokenizer import Tokenizer

KEPT_OUT = 8  # one document in so many is kept out of what quantisers see, and judges them


@dataclass(frozen=True)
class Calibration:
    """tokens (rows, length), of which the last `kept_out` come from documents of their own.

    sha256 of those tokens, so that two runs on the same ones can be told from two on different ones.
    """

    tokens: NDArray[np.int64]
    kept_out: int
    sha256: str

    @property
    def seen(self) -> NDArray[np.int64]:
        """The rows that quantisers may see."""
        return self.tokens[: len(self.tokens) - self.kept_out]


def calibrate(recipe: Recipe, tokenizer: Tokenizer, progress: Progress) -> Calibration | None:
    """None for a recipe that reads no text. Raises CalibrationError for a text that is missing, no text, or too short."""
    if not recipe.calibrated:
        return None
    options = recipe.calibration
    documents = load_documents(options.path or str(resources.files("rwkvquant") / "assets" / "calibration.txt"))
    apart = documents[::KEPT_OUT] if recipe.fall_back and options.rows >= KEPT_OUT and len(documents) >= KEPT_OUT else []
    seen = [document for i, document in enumerate(documents) if not apart or i % KEPT_OUT]
    rows = options.rows - options.rows // KEPT_OUT if apart else options.rows
    tokens = calibration_rows(seen, tokenizer, rows, options.length, recipe.seed)
    kept_out = 0
    if apart:
        try:
            judges = calibration_rows(apart, tokenizer, options.rows // KEPT_OUT, options.length, recipe.seed)
            tokens, kept_out = np.concatenate([tokens, judges]), len(judges)
        except CalibrationError:
            pass  # too little to keep any of it out
    if len(tokens) < options.rows:
        progress.note(f"the calibration text gives {len(tokens)} rows of {options.length} tokens, not {options.rows}")
    return Calibration(tokens, kept_out, hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest())
