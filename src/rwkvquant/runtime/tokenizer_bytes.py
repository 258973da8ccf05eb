"""The tokenizer of byte-level models: the ids are the bytes of the text in UTF-8."""

from __future__ import annotations

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_base import Tokenizer, utf8


class BytesTokenizer(Tokenizer):
    """Knows min(size, 256) bytes: a model with 128 ids reads ASCII only. Id 0 stays the byte 0, and the end of text to the session."""

    def __init__(self, size: int = 256) -> None:
        super().__init__([bytes([value]) for value in range(min(size, 256))], size)
        self.source = "the bytes of the text"

    def encode(self, text: str) -> list[int]:
        ids = list(utf8(text))
        if max(ids, default=0) >= self.size:
            raise TokenizerError(f"this model knows the bytes 0 to {self.size - 1} only; the text has byte {max(ids)}")
        return ids

    def to_data(self) -> TokenizerData:
        return TokenizerData("bytes", {"size": self.size})
