"""The RWKV World tokenizer: the longest token that fits, from left to right, over the bytes of the text.

The vocabulary is a text file of lines `id literal length`, where the literal is a Python string (taken as UTF-8) or bytes.
It is parsed once, into the table of tokenizer_table.py; the package carries that of rwkv_vocab_v20230424 (assets/README.md).
"""

from __future__ import annotations

import ast
import io
import zlib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path

import numpy as np

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_base import Tokenizer, utf8
from rwkvquant.runtime.tokenizer_table import MAX_TOKENS, pack_table, unpack_table

ASSET = "rwkv_vocab_v20230424.table.zlib"
WORLD_MODEL_VOCABULARY = 65536  # the World vocabulary has 65,530 ids; released models round up


class WorldTokenizer(Tokenizer):
    """Greedy longest match. Where two ids have the same bytes, text gets the higher one, as with the `rwkv` package."""

    def __init__(self, tokens: Sequence[bytes], size: int | None = None) -> None:
        super().__init__(tokens, size)
        self._ids = {token: i for i, token in enumerate(tokens) if token}
        self._lengths = _lengths_by_start(self._ids)
        self._longest = max(map(len, self._ids), default=1)

    @property
    def longest(self) -> int:
        return self._longest

    def encode(self, text: str) -> list[int]:
        return self.encode_bytes(utf8(text))

    def encode_bytes(self, source: bytes) -> list[int]:
        ids, lengths = self._ids, self._lengths
        tokens: list[int] = []
        at = 0
        while at < len(source):
            for length in lengths.get(source[at : at + 2], (1,)):
                token = ids.get(source[at : at + length])
                if token is not None:
                    break
            else:
                raise TokenizerError(f"this vocabulary has no token for byte {source[at]:#04x}, which the text contains")
            tokens.append(token)
            at += len(self._tokens[token])
        return tokens

    def to_data(self) -> TokenizerData:
        return TokenizerData("world", {}, {"table": pack_table(dict(enumerate(self._tokens)))})


def _lengths_by_start(ids: Mapping[bytes, int]) -> dict[bytes, tuple[int, ...]]:
    """The lengths of the tokens that begin with two given bytes, longest first, and 1: the few slices that a position must try."""
    lengths: dict[bytes, set[int]] = {}
    for token in ids:
        if len(token) > 1:
            lengths.setdefault(token[:2], {1}).add(len(token))
    return {start: tuple(sorted(each, reverse=True)) for start, each in lengths.items()}


def load_world() -> list[bytes]:
    """The tokens of rwkv_vocab_v20230424, from the package."""
    packed = resources.files("rwkvquant").joinpath("assets", ASSET).read_bytes()
    return unpack_table(np.frombuffer(zlib.decompress(packed), np.uint8))


def world(size: int | None = None) -> WorldTokenizer:
    """The tokenizer of `load_world`."""
    tokenizer = WorldTokenizer(load_world(), size)
    tokenizer.source = "the World vocabulary of the package"
    return tokenizer


def rebuild_asset(vocabulary: Path, asset: Path) -> None:
    """Make the package's table from rwkv_vocab_v20230424.txt."""
    tokens = parse_vocabulary(vocabulary.read_text(encoding="utf-8"))
    asset.write_bytes(zlib.compress(pack_table(tokens).tobytes(), level=9))


def parse_vocabulary(text: str) -> dict[int, bytes]:
    """Lines `id literal length` -> {id: bytes}. Raises TokenizerError with the number of the first line that has another form."""
    tokens: dict[int, bytes] = {}
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):  # not splitlines: it splits at characters a token may have
        try:
            index, token = _parse_line(line)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise TokenizerError(f"line {number} of a vocabulary is: id, Python literal, length in bytes; got {line[:60]!r}") from None
        if index in tokens:
            raise TokenizerError(f"line {number} of the vocabulary gives id {index} a second time")
        tokens[index] = token
    if not tokens:
        raise TokenizerError("a vocabulary has at least one line (id, Python literal, length in bytes); this one is empty")
    return tokens


def _parse_line(line: str) -> tuple[int, bytes]:
    head, rest = line.split(" ", 1)
    literal, length = rest.rsplit(" ", 1)
    value = ast.literal_eval(literal)
    token = value.encode("utf-8") if isinstance(value, str) else value
    if not isinstance(token, bytes) or not token or len(token) != int(length) or not 0 <= int(head) < MAX_TOKENS:
        raise ValueError
    return int(head), token
