"""JSON from a file of another tool: a safetensors header, an index of shards, a config. Every problem is a CheckpointError."""

from __future__ import annotations

import json
from typing import Any

from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError


def parse_object(text: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError for anything else, for a key given twice, and for nesting too deep."""
    try:
        value = json.loads(text, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise CheckpointError(f"{what} is not valid JSON ({shown(str(error))})") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{what} must be a JSON object; got {type(value).__name__}")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return unique
