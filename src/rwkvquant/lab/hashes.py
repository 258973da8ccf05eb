"""Texts, tokenizers and calibrations by their contents, so that a question does not depend on names and places of files."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from rwkvquant.config import CalibrationConfig
from rwkvquant.errors import ConfigError
from rwkvquant.formats.tokenizer_data import TokenizerData


def calibration_json(calibration: CalibrationConfig) -> dict[str, Any]:
    """With the hash of the text in place of its path; None for the text in the package."""
    plain = dataclasses.asdict(calibration)
    path = plain.pop("path")
    return plain | {"sha256": digest(Path(path)) if path else None}


def digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal. Raises ConfigError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: {'there is no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None


def tokenizer_sha256(data: TokenizerData) -> str:
    words = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in data.arrays.items()}
    return hashlib.sha256(json.dumps([data.kind, data.meta, words], sort_keys=True).encode()).hexdigest()
