"""The calibration text as tokens: rows that quantisers see, and rows of other documents, kept out to test them on."""

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

KEPT_OUT = 8  # one document of so many is kept out: quantisers do not see it, and are tested on it


@dataclass(frozen=True)
class Calibration:
    """tokens (rows, length); the last `kept_out` rows come from documents that quantisers do not see.

    sha256: the hash of the tokens, so that runs on other tokens are noticed.
    """

    tokens: NDArray[np.int64]
    kept_out: int
    sha256: str

    @property
    def seen(self) -> NDArray[np.int64]:
        """The rows that quantisers may see."""
        return self.tokens[: len(self.tokens) - self.kept_out]


def calibrate(recipe: Recipe, documents: list[str], tokenizer: Tokenizer, progress: Progress) -> Calibration | None:
    """The rows of `documents`; None for a recipe that reads no text. Raises CalibrationError for a text that is too short."""
    if not recipe.calibrated:
        return None
    options = recipe.calibration
    apart = documents[::KEPT_OUT] if recipe.fall_back and options.rows >= KEPT_OUT and len(documents) >= KEPT_OUT else []
    seen = [document for i, document in enumerate(documents) if not apart or i % KEPT_OUT]
    rows = options.rows - options.rows // KEPT_OUT if apart else options.rows
    tokens = calibration_rows(seen, tokenizer, rows, options.length, recipe.seed)
    kept_out = 0
    if apart:
        try:
            last = calibration_rows(apart, tokenizer, options.rows // KEPT_OUT, options.length, recipe.seed)
            tokens, kept_out = np.concatenate([tokens, last]), len(last)
        except CalibrationError:
            pass  # too little to keep any of it out
    if len(tokens) < options.rows:
        progress.note(f"the calibration text gives {len(tokens)} rows of {options.length} tokens, not {options.rows}")
    return Calibration(tokens, kept_out, hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest())


def documents_of(recipe: Recipe) -> list[str]:
    """The calibration text; [] for a recipe that reads none. Raises CalibrationError for a file that is missing or is not text.

    A job calls this once: the text may come from a pipe.
    """
    if not recipe.calibrated:
        return []
    return load_documents(recipe.calibration.path or str(resources.files("rwkvquant") / "assets" / "calibration.txt"))
