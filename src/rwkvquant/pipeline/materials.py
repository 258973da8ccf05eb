"""What a job needs besides weights: the calibration, and the tokenizer of a text model or the settings of a model for images."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvquant.architectures.image import ImageSettings
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.pipeline.calibrate import Calibration, calibrate, calibrate_with_images, documents_of
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tokenizer import tokenizer_for
from rwkvquant.recipes import Recipe
from rwkvquant.runtime.tokenizer import Tokenizer


@dataclass(frozen=True)
class Materials:
    """`calibration` None: the recipe reads none. A text model has a `tokenizer`, a model for images has `image`; the other is None."""

    calibration: Calibration | None
    tokenizer: Tokenizer | None = None
    image: ImageSettings | None = None

    @property
    def tokenizer_data(self) -> TokenizerData | None:
        """The tokenizer as a packed file stores it."""
        return self.tokenizer.to_data() if self.tokenizer else None


def materials_for(checkpoint: Checkpoint, recipe: Recipe, progress: Progress) -> Materials:
    """Reads the calibration and the tokenizer.

    Raises CalibrationError, ImageError and TokenizerError for what cannot be read or does not fit, ConfigError for a tokenizer for images.
    """
    if checkpoint.image is not None:
        if recipe.tokenizer:
            raise ConfigError(f"{checkpoint.path}: a model for images has no tokenizer; leave --tokenizer {recipe.tokenizer} out")
        return Materials(calibrate_with_images(checkpoint, recipe, progress), image=checkpoint.image)
    documents = documents_of(recipe)
    tokenizer = tokenizer_for(checkpoint, recipe, documents, progress)
    return Materials(calibrate(checkpoint.arch, recipe, documents, tokenizer, progress), tokenizer)
