"""Open a packed file or a checkpoint of a model for images, for measuring."""

from __future__ import annotations

from rwkvquant.architectures import Architecture
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.models import ImageModel, PackedSource
from rwkvquant.runtime.session import is_packed


def load_image_model(file: str) -> ImageModel:
    """In torch. Weights of a packed file stay codes. Raises ConfigError for a text model."""
    if is_packed(file):
        packed = open_packed(file)
        if packed.image is None:
            raise _is_for_text(file, packed.architecture)
        return ImageModel(PackedSource(packed), packed.image)
    checkpoint = open_checkpoint(file)
    if checkpoint.image is None:
        raise _is_for_text(file, checkpoint.architecture)
    return ImageModel.of(checkpoint)


def _is_for_text(file: str, architecture: Architecture) -> ConfigError:
    return ConfigError(f"{file}: {architecture.title} is a text model; it is measured with --text, not with --images")
