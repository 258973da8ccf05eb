"""Text -> windows of tokens. They are made once, and every model that is compared gets the same.

A window holds at most `context` tokens of one document. Token 0 (end of text) comes before them, so that the first token is
predicted too. Each window starts from the initial state. So every token of the text is predicted exactly once, from at most
`context` tokens. The last, short window of a document is kept; it is padded on the right and masked (docs/methods/measuring.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.calibration.samples import load_documents
from rwkvquant.errors import CalibrationError, ConfigError

END_OF_TEXT = 0


class TextTokenizer(Protocol):
    """The methods of a tokenizer that measuring needs (runtime.tokenizer has more)."""

    def encode(self, text: str) -> list[int]: ...
    def decode_bytes(self, ids: Sequence[int]) -> bytes: ...


@dataclass(frozen=True)
class Windows:
    """Rows of tokens, padded on the right with token 0, and a mask of the tokens that count.

    inputs, targets (windows, length) int64: targets[w, t] follows inputs[w, t]      mask (windows, length) bool: this target counts
    lengths (windows,) int64: how many inputs are not padding                        text_bytes: UTF-8 bytes of the predicted text
    """

    inputs: NDArray[np.int64]
    targets: NDArray[np.int64]
    mask: NDArray[np.bool_]
    lengths: NDArray[np.int64]
    text_bytes: int

    @classmethod
    def from_rows(cls, rows: Sequence[Sequence[int]], first: Sequence[int], text_bytes: int) -> Windows:
        """One window for each row. A row has at least two tokens; those from index first[w] on are predicted."""
        assert rows and all(1 <= start < len(row) for row, start in zip(rows, first, strict=True))
        lengths = np.array([len(row) - 1 for row in rows], np.int64)
        inputs = np.zeros((len(rows), int(lengths.max())), np.int64)
        targets, mask = np.zeros_like(inputs), np.zeros(inputs.shape, bool)
        for w, (row, start) in enumerate(zip(rows, first, strict=True)):
            inputs[w, : lengths[w]] = row[:-1]
            targets[w, : lengths[w]] = row[1:]
            mask[w, start - 1 : lengths[w]] = True
        return cls(inputs, targets, mask, lengths, text_bytes)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """How many tokens are predicted."""
        return int(self.mask.sum())

    @property
    def tokens_each(self) -> NDArray[np.int64]:
        """(windows,) predicted tokens of each window."""
        return self.mask.sum(1)

    @property
    def starts(self) -> NDArray[np.int64]:
        """(windows,) the index of each window's first predicted token in an array of all predicted tokens."""
        return np.cumsum(self.tokens_each) - self.tokens_each

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """(tokens,) one value for each predicted token -> (windows,) its sum over each window."""
        return np.add.reduceat(values, self.starts)

    def sha256(self) -> str:
        """Hash of the tokens and the mask. Two measurements may be compared if their hashes are equal."""
        digest = hashlib.sha256(repr(self.inputs.shape).encode())
        for array in (self.inputs, self.targets, self.mask):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def text_windows(path: str | Path, tokenizer: TextTokenizer, *, context: int = 512, max_tokens: int | None = None) -> Windows:
    """The windows of a text file (.txt with several documents, or .jsonl; calibration/samples.py). Raises as document_windows."""
    return document_windows(load_documents(path), tokenizer, context=context, max_tokens=max_tokens, source=str(path))


def document_windows(
    documents: Sequence[str], tokenizer: TextTokenizer, *, context: int = 512, max_tokens: int | None = None, source: str = "the text"
) -> Windows:
    """The windows of whole documents, or of their first `max_tokens` tokens.

    Raises CalibrationError if there is no token to predict, ConfigError if context or max_tokens is below 1.
    """
    assert not isinstance(documents, str), "a list of documents, not one string"
    if context < 1:
        raise ConfigError(f"context must be at least 1 token; got {context}. Try context=512.")
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens must be at least 1; got {max_tokens}. Leave it out to use the whole text.")
    rows: list[list[int]] = []
    tokens = text_bytes = 0
    for document in documents:
        ids = list(tokenizer.encode(document))
        kept = ids if max_tokens is None else ids[: max_tokens - tokens]
        rows += [[END_OF_TEXT, *kept[at : at + context]] for at in range(0, len(kept), context)]
        tokens += len(kept)
        # A whole document counts its own bytes: a tokenizer may normalise the text, and then decodes to other bytes.
        text_bytes += len(document.encode()) if len(kept) == len(ids) else len(tokenizer.decode_bytes(kept))
        if tokens == max_tokens:
            break
    if not rows:
        raise CalibrationError(f"evaluation needs at least one token of text; {source} has none. Give a file with text in it.")
    return Windows.from_rows(rows, [1] * len(rows), text_bytes)
