"""All architectures by their names, and which of them some tensors belong to. A new one is a file beside this one, and a line below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rwkvquant.architectures import rwkv6, rwkv7
from rwkvquant.architectures.architecture import Architecture, Relative, Shape
from rwkvquant.architectures.base import Role
from rwkvquant.errors import CheckpointError, ConfigError

ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Those registered later are looked for first: a newer architecture has the tensors of an older one, and some more."""
    assert architecture.name not in ARCHITECTURES, architecture.name
    ARCHITECTURES[architecture.name] = architecture


register(rwkv6.ARCHITECTURE)
register(rwkv7.ARCHITECTURE)


def architecture(name: str) -> Architecture:
    """Raises ConfigError for a name that is not registered."""
    if name not in ARCHITECTURES:
        raise ConfigError(f"architectures are {', '.join(ARCHITECTURES)}; got {name}")
    return ARCHITECTURES[name]


def newest_first() -> list[Architecture]:
    return list(reversed(ARCHITECTURES.values()))


def marked(names: Iterable[str]) -> Architecture | None:
    """The architecture that some of these names mark. They are those of its table, not another layout's."""
    names = list(names)
    return next((each for each in newest_first() if each.is_marked_in(names)), None)


def recognize(shapes: Mapping[str, Shape]) -> Architecture:
    """By names and shapes alone. Raises CheckpointError, which names the architecture if it is one we know of."""
    relatives = [relative for each in newest_first() for relative in each.relatives]
    _refuse([relative for relative in relatives if relative.newer], shapes)
    found = marked(shapes)
    if found is not None:
        return found
    _refuse([relative for relative in relatives if not relative.newer], shapes)
    states = tuple(spec.name for each in newest_first() for spec in each.table if spec.role is Role.STATE)
    if states and all(name.endswith(states) for name in shapes):
        raise CheckpointError(
            f"this file holds a tuned state ({states[0].rpartition('.')[2]}) without its model; a checkpoint with all its weights is needed"
        )
    raise CheckpointError(f"no tensor here has a name of an RWKV checkpoint (the first is {next(iter(shapes))!r}); {_supported()}")


def _refuse(relatives: list[Relative], shapes: Mapping[str, Shape]) -> None:
    for relative in relatives:
        if any(re.search(relative.mark, name) for name in shapes):
            raise CheckpointError(f"{relative.title_in(shapes)} is not supported; {_supported()}")


def _supported() -> str:
    *most, last = [each.title for each in newest_first()]
    return f"{', '.join(most)} and {last} checkpoints with BlinkDL's tensor names are supported"
