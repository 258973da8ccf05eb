"""Find the architecture and its sizes from tensor names and shapes alone. File names and config.json are not trusted."""

from __future__ import annotations

from collections.abc import Mapping

from rwkvquant.architectures import Dims
from rwkvquant.architectures.architecture import Architecture, Shape
from rwkvquant.architectures.registry import recognize
from rwkvquant.architectures.sizes import read_sizes


def detect(shapes: Mapping[str, Shape]) -> tuple[Architecture, Dims]:
    """`shapes`: tensor name -> shape. Raises CheckpointError for other architectures, and for missing, unknown or misshapen tensors.

    Tensors that the architecture only carries along are not looked at.
    """
    architecture = recognize(shapes)
    carried = architecture.carried(shapes)
    return architecture, read_sizes(architecture, {name: shape for name, shape in shapes.items() if name not in carried})
