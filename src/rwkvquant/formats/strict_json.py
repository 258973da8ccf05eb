"""JSON from a file that may be damaged or hostile: everything unexpected raises FormatError, and nothing crashes."""

from __future__ import annotations

import json
from typing import Any, TypeVar

from rwkvquant.errors import FormatError

MAX_INT = 1 << 53  # beyond it other languages' JSON readers round

T = TypeVar("T", str, int, bool, dict, list)


def parse_object(text: str | bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises FormatError for anything else, a key that is there twice, numbers that are not finite, or too deep nesting."""
    try:
        value = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_number, parse_float=_finite, parse_int=_bounded
        )
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not valid JSON: {shown(str(error))}") from None
    if not isinstance(value, dict):
        raise FormatError(f"{what} must be a JSON object; got {type(value).__name__}")
    return value


def field(owner: dict[str, Any], key: str, kind: type[T], what: str) -> T:
    """owner[key], of exactly this JSON type. Raises FormatError if it is missing or of another type."""
    if key not in owner:
        raise FormatError(f"{what} has no {key}")
    return typed(owner[key], kind, f"{key} of {what}")


def typed(value: Any, kind: type[T], what: str) -> T:
    """`value` if it is of exactly this type (true is no integer). Raises FormatError."""
    if type(value) is not kind:
        raise FormatError(f"{what} must be {kind.__name__}; got {shown(value)}")
    return value


def sizes(owner: dict[str, Any], key: str, what: str) -> tuple[int, ...]:
    """owner[key] as a shape: a list of 1 to 8 integers of at least 1. Raises FormatError."""
    values = field(owner, key, list, what)
    if not 1 <= len(values) <= 8 or any(type(value) is not int or value < 1 for value in values):
        raise FormatError(f"{key} of {what} must be a list of sizes of at least 1; got {shown(values)}")
    return tuple(values)


def shown(value: Any) -> str:
    """Any value, even a hostile one, as short printable text."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key!r} is there twice")
        result[key] = value
    return result


def _refuse_number(text: str) -> Any:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if abs(value) == float("inf"):
        raise ValueError("a number is too large")
    return value


def _bounded(text: str) -> int:
    if len(text) > 17 or abs(int(text)) > MAX_INT:
        raise ValueError("an integer is too large")
    return int(text)
