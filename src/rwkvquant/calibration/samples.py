"""Calibration text: files to documents, documents to rows of tokens."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import CalibrationError
from rwkvquant.stand_in import LFS_POINTER, stand_in

SEPARATOR = "\n\n<|doc|>\n\n"
ZEROS_OF_NO_TEXT = 64  # so many in a row are an archive's padding or a gap in a file; texts from the web can have single ones
END_OF_DOCUMENT = 0  # the token before each document, as in RWKV's training


class Encoder(Protocol):
    def encode(self, text: str, /) -> list[int]: ...


def load_documents(path: Path | str) -> list[str]:
    """The documents of a file: JSON lines, with {"text": ...} on each, or plain text separated by SEPARATOR. None is empty.

    JSON lines are recognised by their content, or by the ending .jsonl.

    Raises CalibrationError for a missing file, a directory, a file that is not UTF-8 text, a line that is not such JSON, a file that
    is one JSON document, and a file without any text.
    """
    path = Path(path)
    text = _read_text(path)
    json_lines = path.suffix.lower() == ".jsonl" or _are_json_lines(text)
    if not json_lines and _is_json_document(text):
        raise CalibrationError(f'{path} is one JSON document; give a plain text, or JSON lines: {{"text": "..."}} on each line')
    documents = _jsonl(text, path) if json_lines else text.split(SEPARATOR)
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise CalibrationError(f"{path} holds no text; calibration and evaluation need some. Try a plain text file of 300 kB or more")
    return documents


def calibration_rows(
    documents: Sequence[str], tokenizer: Encoder, rows: int, length: int, seed: int = 0, option: str = "--calib-len"
) -> NDArray[np.int64]:
    """At most `rows` rows of `length` tokens: (rows, length). Fewer where the text ends, but at least one.

    Documents come in an order drawn by `seed`, so that a few rows have all parts of a text. Token 0 is put before each, and the
    stream is cut into rows without gaps. Raises CalibrationError if it is shorter than one row; `option` is the command-line option
    that sets the length.
    """
    order = list(range(len(documents)))
    random.Random(seed).shuffle(order)
    tokens: list[int] = []
    for index in order:
        if len(tokens) >= rows * length:
            break
        tokens.append(END_OF_DOCUMENT)
        tokens.extend(tokenizer.encode(documents[index]))
    whole = min(rows, len(tokens) // length)
    if whole == 0:
        raise CalibrationError(
            f"the calibration text is too short: one row needs {length} tokens, and it has {len(tokens)}. "
            f"Try a longer text or {option} {max(1, len(tokens))}"
        )
    return np.array(tokens[: whole * length], np.int64).reshape(whole, length)


def _read_text(path: Path) -> str:
    if path.is_dir():
        raise CalibrationError(f"{path} is a directory; give a text file (.txt or .jsonl)")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise CalibrationError(f"cannot read the text {path}: {error.strerror or error}") from error
    if raw.startswith(LFS_POINTER):  # only a pointer: the web pages that `stand_in` knows may be meant as text
        raise CalibrationError(f"{path}: {stand_in(raw)}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise CalibrationError(f"{path} is not UTF-8 text (byte {error.start}); give a text file (.txt or .jsonl)") from error
    if 4 * raw.count(0) >= len(raw) > 0 or bytes(ZEROS_OF_NO_TEXT) in raw:
        raise CalibrationError(
            f"{path} is not a text in UTF-8: {raw.count(0)} of its {len(raw)} bytes are zero. If it is UTF-16, save it as UTF-8"
        )
    return text.replace("\r\n", "\n")


def _are_json_lines(text: str) -> bool:
    """Whether the first line is {"text": "..."}, or every line is a JSON object. Ordinary text is neither."""
    lines = (line for line in text.split("\n") if line.strip())
    first = _json_object(next(lines, ""))
    if first is None:
        return False
    return isinstance(first.get("text"), str) or all(_json_object(line) is not None for line in lines)


def _json_object(text: str) -> dict[str, Any] | None:
    if text.lstrip()[:1] != "{":
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_json_document(text: str) -> bool:
    """Whether the whole file is one JSON object, or a list of them."""
    if text.lstrip()[:1] != "[":
        return _json_object(text) is not None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return bool(value) and all(isinstance(item, dict) for item in value)


def _jsonl(text: str, path: Path) -> list[str]:
    documents = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines(), which also splits at U+2028 inside a string
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise CalibrationError(f'{path}, line {number}: not JSON; each line must be like {{"text": "..."}}') from error
        if not isinstance(entry, dict) or not isinstance(entry.get("text"), str):
            raise CalibrationError(f'{path}, line {number}: no "text" string; each line must be like {{"text": "..."}}')
        documents.append(entry["text"])
    return documents
