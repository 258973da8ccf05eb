"""The sizes of released models, so that their speed can be measured before a download."""

from __future__ import annotations

from rwkvquant.architectures import Dims
from rwkvquant.architectures.registry import newest_first
from rwkvquant.errors import ConfigError

RELEASED: dict[str, tuple[str, Dims]] = {name: (each.name, dims) for each in newest_first() for name, dims in each.released.items()}


def released(name: str) -> tuple[str, Dims]:
    """(architecture, sizes). Raises ConfigError for a name that is not in RELEASED."""
    if name not in RELEASED:
        raise ConfigError(f"released shapes are {', '.join(RELEASED)}; got {name}")
    return RELEASED[name]
