"""The entries of a YAML file of the laboratory, checked as they are read: every mistake is one ConfigError that names the file."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rwkvquant.errors import ConfigError

LONGEST = 80  # characters of a name


class Entries:
    """`content`: the names and values of a file whose top is one of these."""

    def __init__(self, path: Path, content: Any, what: str, keys: tuple[str, ...]) -> None:
        self.path = path
        self.content = self.mapping(content, what)
        for key in self.content:
            if key not in keys:
                self.fail(f"there is no key {shown(key)}.{hint(str(key), keys)}")

    def names(self, key: str) -> dict[str, Any]:
        """The mapping at `key`, whose keys become parts of file names and of tables."""
        found = self.mapping(self.content.get(key), key)
        if not found:
            self.fail(f"{key} must name at least one of them, as in {key}: {{NAME: ...}}")
        for name in found:
            if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.strip()) <= LONGEST:
                self.fail(f"{key}: a name is a string of 1 to {LONGEST} characters on one line; got {shown(name)}")
        return found

    def several(self, key: str, default: list[Any], is_one: Callable[[Any], bool], words: str) -> list[Any]:
        found = self.content.get(key, default)
        if not isinstance(found, list) or not all(is_one(value) for value in found) or (key in self.content and not found):
            self.fail(f"{key} must be a list of {words}; got {shown(found)}")
        return list(dict.fromkeys(found))

    def one(self, key: str, default: Any, is_one: type | Callable[[Any], bool], words: str) -> Any:
        found = self.content.get(key, default)
        good = isinstance(found, is_one) if isinstance(is_one, type) else is_one(found)
        if found is not default and not good:
            self.fail(f"{key} must be {words}; got {shown(found)}")
        return found

    def mapping(self, value: Any, what: str) -> dict[str, Any]:
        if not isinstance(value, Mapping):
            self.fail(f"{what} must be names with values; got {shown(value)}")
        return dict(value)

    def beside(self, path: str) -> str:
        return str(self.path.parent / path)

    def fail(self, sentence: str) -> NoReturn:
        raise ConfigError(f"{self.path}: {sentence}")


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value < 1 << 62


def is_seed(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 62


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6 and math.isfinite(value)


def hint(name: str, known: Any) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."


def shown(value: Any) -> str:
    """A value of a file in a message: short, whatever it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of more digits than Python prints
        text = type(value).__name__
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
