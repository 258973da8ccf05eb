"""What is read for calibration, text or images: rows that quantisers see, and rows of other documents, kept out to test them on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.calibration.images import calibration_images
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import CalibrationError, ConfigError
from rwkvquant.models import ImageStages, Stages, text_stages
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Recipe
from rwkvquant.runtime.tokenizer import Tokenizer

KEPT_OUT = 8  # one document of so many is kept out: quantisers do not see it, and are tested on it


@dataclass(frozen=True)
class Calibration:
    """`rows`: tokens (rows, length), or images (rows, 3, height, width), normalised, of `length` patches each.

    The last `kept_out` rows come from documents that quantisers do not see; of images, they are other images.
    sha256: the hash of the rows, so that runs on others are noticed. stages: the forward for such rows. kind: "text" or "images".
    """

    rows: NDArray[Any]
    kept_out: int
    sha256: str
    stages: Stages
    length: int
    kind: str = "text"

    @property
    def seen(self) -> NDArray[Any]:
        """The rows that quantisers may see."""
        return self.rows[: len(self.rows) - self.kept_out]


def calibrate(arch: str, recipe: Recipe, documents: list[str], tokenizer: Tokenizer, progress: Progress) -> Calibration | None:
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
    sha256 = hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest()
    return Calibration(tokens, kept_out, sha256, text_stages(arch), tokens.shape[1])


def calibrate_with_images(checkpoint: Checkpoint, recipe: Recipe, progress: Progress) -> Calibration | None:
    """The images of the recipe's calibration; None for a recipe that reads none.

    Raises ConfigError if none are named, ImageError for what holds no images.
    """
    assert checkpoint.image is not None
    if not recipe.calibrated:
        return None
    options = recipe.calibration
    if not options.path:
        raise ConfigError(
            f"the method {recipe.method} reads images for calibration: give a folder of images or an .npz with --calib; "
            "--method rtn needs none"
        )
    images = calibration_images(options.path, checkpoint, options.rows, recipe.seed)
    if len(images) < options.rows:
        progress.note(f"{options.path} has {len(images)} images, not {options.rows}")
    kept_out = len(images) // KEPT_OUT if recipe.fall_back else 0
    stages = ImageStages.of(checkpoint, *images.shape[2:])
    sha256 = hashlib.sha256(images.astype("<f4").tobytes()).hexdigest()
    return Calibration(images, kept_out, sha256, stages, stages.here[0] * stages.here[1], "images")


def documents_of(recipe: Recipe) -> list[str]:
    """The calibration text; [] for a recipe that reads none. Raises CalibrationError for a file that is missing or is not text.

    A job calls this once: the text may come from a pipe.
    """
    if not recipe.calibrated:
        return []
    return load_documents(recipe.calibration.path or str(resources.files("rwkvquant") / "assets" / "calibration.txt"))
