"""The bytes of every token: what every tokenizer but `bytes` stores (see formats/tokenizer_data.py for the form).

table = u32 n, u32 offsets[n + 1], blob          all little-endian; the bytes of id i are blob[offsets[i]:offsets[i + 1]]
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import TokenizerError

MAX_TOKENS = 1 << 24  # only a damaged or hostile file has more; it is refused before anything is allocated
MAX_TOKEN_BYTES = 1 << 16


def pack_table(tokens: Mapping[int, bytes]) -> NDArray[np.uint8]:
    """{id: bytes} -> the table as a flat uint8 array. Ids that are missing become unused ids."""
    count = max(tokens, default=-1) + 1
    pieces = [tokens.get(i, b"") for i in range(count)]
    offsets = np.concatenate([[0], np.cumsum([len(piece) for piece in pieces], dtype=np.int64)]).astype("<u4")
    return np.frombuffer(np.uint32(count).astype("<u4").tobytes() + offsets.tobytes() + b"".join(pieces), np.uint8)


def unpack_table(table: NDArray[np.uint8]) -> list[bytes]:
    """The table as a flat uint8 array -> bytes of each id. Raises TokenizerError for a table that breaks the form."""
    words = read_u32(table, "table", head=2)
    count = int(words[0])
    start = 4 * (count + 2)
    if not 1 <= count <= MAX_TOKENS or start > table.size:
        raise TokenizerError(f"a token table holds 1 to {MAX_TOKENS} tokens and their offsets; this one says {count} in {table.size} bytes")
    offsets = np.frombuffer(table[4:start].tobytes(), "<u4").astype(np.int64)
    lengths = np.diff(offsets)
    if offsets[0] != 0 or lengths.min() < 0 or lengths.max() > MAX_TOKEN_BYTES or start + offsets[-1] > table.size:
        raise TokenizerError(f"offsets of a token table start at 0, never fall, and end inside its {table.size} bytes; these do not")
    blob = table[start : start + int(offsets[-1])].tobytes()
    return [blob[start:end] for start, end in itertools.pairwise(offsets.tolist())]


def read_u32(array: NDArray[np.uint8], name: str, head: int) -> NDArray[np.uint32]:
    """The first `head` little-endian words of a byte array. Raises TokenizerError if it is shorter, or not a byte array."""
    if array.dtype != np.uint8 or array.ndim != 1 or array.size < 4 * head:
        raise TokenizerError(f"the tokenizer's {name} is a flat array of at least {4 * head} bytes; got {array.dtype} {array.shape}")
    return np.frombuffer(array[: 4 * head].tobytes(), "<u4")
