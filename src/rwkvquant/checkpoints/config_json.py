"""config.json next to the weights, as Hugging Face's tools write it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rwkvquant.checkpoints.json_object import parse_object
from rwkvquant.errors import CheckpointError

CONFIG = "config.json"
MAX_CONFIG_BYTES = 16 << 20


def read_config(path: Path) -> dict[str, Any] | None:
    """`path` is the checkpoint's: a file, or a directory. None without a config. Raises CheckpointError if it is not a JSON object."""
    config = (path if path.is_dir() else path.parent) / CONFIG
    if not config.is_file():
        return None
    with open(config, "rb") as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise CheckpointError(f"{CONFIG} may have at most {MAX_CONFIG_BYTES >> 20} MB")
    return parse_object(text, CONFIG)
