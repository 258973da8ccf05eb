"""Which architecture, and which sizes, from tensor names and shapes alone; file names and configs are not trusted."""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.architectures import Dims
from rwkvquant.architectures.architecture import Architecture, Shape
from rwkvquant.architectures.registry import recognize
from rwkvquant.architectures.sizes import read_sizes


def detect(shapes: Mapping[str, Shape]) -> tuple[Architecture, Dims]:
    """Raises CheckpointError for other architectures, and for tensors missing, unknown or misshapen."""
    architecture = recognize(shapes)
    return architecture, read_sizes(architecture, shapes)
