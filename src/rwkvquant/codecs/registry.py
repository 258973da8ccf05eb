"""All codecs. A codec calls `register` in the file that defines it; there is no other list of codecs.

Code that has a layout id, parameters or a logical tensor gets the codec from here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from rwkvquant.errors import ConfigError, FormatError

if TYPE_CHECKING:
    from rwkvquant.codecs.base import Codec, CodecConfig

Key = TypeVar("Key", str, type)
_BY_NAME: dict[str, Codec] = {}
_BY_LAYOUT: dict[str, Codec] = {}
_BY_TYPE: dict[type, Codec] = {}


def register(codec: Codec) -> Codec:
    """Make a codec known to packing, verifying, both engines, the torch forward and `inspect`. Names, layouts and classes are unique."""
    _claim(_BY_NAME, (codec.name,), codec)
    _claim(_BY_LAYOUT, (*codec.layouts, *codec.memory_layouts), codec)
    _claim(_BY_TYPE, (codec.config, codec.tensor), codec)
    return codec


def unregister(codec: Codec) -> None:
    """Remove a codec: for tests that define one."""
    for owners in (_BY_NAME, _BY_LAYOUT, _BY_TYPE):
        _release(owners, codec)


def _claim(owners: dict[Key, Codec], keys: Iterable[Key], codec: Codec) -> None:
    for key in keys:
        assert owners.setdefault(key, codec) is codec, f"{key} belongs to the codec {owners[key].name}; {codec.name} cannot have it too"


def _release(owners: dict[Any, Codec], codec: Codec) -> None:
    for key in [key for key, owner in owners.items() if owner is codec]:
        del owners[key]


def codecs() -> tuple[Codec, ...]:
    """All of them, in the order of their registration."""
    return tuple(_BY_NAME.values())


def codec_of_layout(layout: str, stored: bool = False) -> Codec:
    """`stored`: only layouts that a packed file may have. Raises FormatError, which lists the layouts, for an unknown one."""
    codec = _BY_LAYOUT.get(layout)
    if codec is None or (stored and layout not in codec.layouts):
        known = ", ".join(_in_words(codec) for codec in codecs())
        raise FormatError(f"[layout] {layout[:60]!r} is not a layout this version reads ({known}). Try a newer rwkvquant.")
    return codec


def codec_of(value: Any) -> Codec:
    """The codec of a logical tensor or of parameters, by their class. Raises ConfigError for a class that no codec registered."""
    if type(value) not in _BY_TYPE:
        raise ConfigError(f"no codec has registered {type(value).__name__}; there are {', '.join(_BY_NAME)}. Import the module that has it")
    return _BY_TYPE[type(value)]


def layout_ids() -> tuple[str, ...]:
    """Every layout id that a packed file may have."""
    return tuple(layout for codec in codecs() for layout in codec.layouts)


def config_from_json(value: dict[str, Any]) -> CodecConfig:
    """The inverse of `CodecConfig.to_json`. Raises ConfigError for an unknown codec or parameter."""
    options = {key: each for key, each in value.items() if key != "codec"}
    codec = _BY_NAME.get(str(value.get("codec")))
    if codec is None:
        raise ConfigError(f"codec must be one of {', '.join(_BY_NAME)}; got {value.get('codec')}")
    try:
        return codec.config(**options)
    except TypeError:
        raise ConfigError(f"the codec {codec.name} has other parameters than {', '.join(options)}") from None


def _in_words(codec: Codec) -> str:
    """ "uniform1 to uniform8 .t16x64 .t16x32 .rows" """
    stems = list(dict.fromkeys(layout.split(".")[0] for layout in codec.layouts))
    kinds = list(dict.fromkeys(layout.partition(".")[2] for layout in codec.layouts))
    stem = stems[0] if len(stems) == 1 else f"{stems[0]} to {stems[-1]}"
    if len(stems) == 1:
        return " ".join([f"{stem}.{kinds[0]}", *(f".{kind}" for kind in kinds[1:])])
    return " ".join([stem, *(f".{kind}" for kind in kinds)])
