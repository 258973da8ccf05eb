"""All architectures by name, and the one that a set of tensors belongs to. A new one is a file in this folder, and a line below."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from rwkvquant.architectures import llama, rwkv6, rwkv7, vrwkv
from rwkvquant.architectures.architecture import Architecture, Relative, Shape
from rwkvquant.architectures.base import Role
from rwkvquant.errors import CheckpointError, ConfigError

ARCHITECTURES: dict[str, Architecture] = {}


def register(architecture: Architecture) -> None:
    """Add an architecture. One that is registered later is tried first: a newer one has the tensors of an older one, and some more."""
    assert architecture.name not in ARCHITECTURES, architecture.name
    ARCHITECTURES[architecture.name] = architecture


register(llama.ARCHITECTURE)
register(vrwkv.ARCHITECTURE)
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
    """The architecture whose mark is in one of these names, or None. The names must be those of its table, not of another layout."""
    names = list(names)
    return next((each for each in newest_first() if each.is_marked_in(names)), None)


def recognize(shapes: Mapping[str, Shape]) -> Architecture:
    """The architecture of tensors, by names and shapes. Raises CheckpointError; the message names an unsupported one that we know."""
    relatives = [relative for each in newest_first() for relative in each.relatives]
    _refuse([relative for relative in relatives if relative.newer], shapes)
    supported = marked(shapes)
    if supported is not None:
        return supported
    _refuse([relative for relative in relatives if not relative.newer], shapes)
    states = tuple(spec.name for each in newest_first() for spec in each.table if spec.role is Role.STATE)
    if states and all(name.endswith(states) for name in shapes):
        raise CheckpointError(
            f"this file holds a tuned state ({states[0].rpartition('.')[2]}) without its model; give a checkpoint that has all weights"
        )
    raise CheckpointError(f"no tensor here has a name of an RWKV checkpoint (the first is {next(iter(shapes))!r}); {_supported()}")


def _refuse(relatives: list[Relative], shapes: Mapping[str, Shape]) -> None:
    for relative in relatives:
        if any(re.search(relative.mark, name) for name in shapes):
            raise CheckpointError(f"{relative.title_in(shapes)} is not supported; {_supported()}")


def _supported() -> str:
    *most, last = [each.title for each in newest_first()]
    names = "BlinkDL, web-rwkv, fla, Hugging Face or OpenGVLab"
    return f"{', '.join(most)} and {last} checkpoints are supported, with the tensor names of {names}"
