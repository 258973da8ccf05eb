"""Byte-level BPE (GPT-2's), as a `tokenizer.json` of the `tokenizers` package describes it, id for id the same.

Added tokens are taken out of a text and the rest is normalised, where the file says so (tokenizer_added.py). The text is cut into
words; each word begins as the tokens of its bytes, and while any neighbours are in the list of merges, the
pair that stands first in the list (the leftmost, if it occurs twice) becomes one token.

Special tokens in a text are plain text, as with `encode_special_tokens = True` in `tokenizers`: what a user types cannot end the
text or fake a turn. They decode to nothing. A byte that no token has is left out, as `tokenizers` does.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_added import AddedTokens, pack_added
from rwkvquant.runtime.tokenizer_base import Tokenizer, utf8
from rwkvquant.runtime.tokenizer_table import MAX_TOKENS, pack_table, read_u32
from rwkvquant.runtime.tokenizer_words import split_words

CACHED_WORDS = 1 << 16
GONE = -1


class BpeTokenizer(Tokenizer):
    """`merges` (m, 3): left, right, merged id, the strongest first. `special_tokens` {content: id} are kept for other tools only."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        merges: NDArray[np.uint32],
        special_tokens: Mapping[str, int],
        add_prefix_space: bool = False,
        size: int | None = None,
        added: AddedTokens | None = None,
    ) -> None:
        super().__init__(tokens, size)
        self._added = added or AddedTokens()
        self.special_tokens = dict(special_tokens)
        self._add_prefix_space = add_prefix_space
        self._merge_array = merges
        self._merges = {(left, right): (rank, merged) for rank, (left, right, merged) in enumerate(merges.tolist())}
        self._byte_ids = {token[0]: i for i, token in enumerate(tokens) if len(token) == 1}
        self._word = functools.lru_cache(CACHED_WORDS)(self._encode_word)  # a text has few words, most of them often

    def encode(self, text: str) -> list[int]:
        utf8(text)  # refuses half a surrogate pair once, before the words do
        ids: list[int] = []
        for piece in self._added.split(text):
            if isinstance(piece, int):
                ids.append(piece)
                continue
            if self._add_prefix_space and not piece.startswith(" "):
                piece = " " + piece
            ids += [token for word in split_words(piece) for token in self._word(word)]
        return ids

    def to_data(self) -> TokenizerData:
        merges = np.concatenate([[len(self._merge_array)], self._merge_array.ravel()]).astype("<u4")
        arrays = {"table": pack_table(dict(enumerate(self._tokens))), "merges": np.frombuffer(merges.tobytes(), np.uint8)}
        meta = {"special_tokens": self.special_tokens, "add_prefix_space": self._add_prefix_space}
        if not self._added.change_text:
            return TokenizerData("bpe", meta, arrays)
        # A kind of its own: a reader that knew only bpe would pass over these two keys, and misread the text.
        meta |= {"normalizer": self._added.normalizer, "added_tokens": pack_added(self._added.tokens)}
        return TokenizerData("bpe-added", meta, arrays)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        return tuple(merge_word([self._byte_ids[byte] for byte in word.encode() if byte in self._byte_ids], self._merges))


def merge_word(ids: list[int], merges: Mapping[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Apply `merges` {(left, right): (rank, merged)} until none applies, in n log n: a word may be a whole line without spaces.

    The tokens are a linked list over their first positions, and a heap holds the pairs by rank, then position.
    """
    symbols = [*ids]  # GONE: swallowed by the token to its left
    following = [*range(1, len(ids)), GONE]
    preceding = [GONE, *range(len(ids) - 1)]
    heap: list[tuple[int, int, int]] = []  # rank, position of the left token, merged id

    def push(left: int, right: int) -> None:
        if left != GONE and right != GONE and (merge := merges.get((symbols[left], symbols[right]))):
            heapq.heappush(heap, (merge[0], left, merge[1]))

    for position in range(len(ids) - 1):
        push(position, position + 1)
    while heap:
        _, left, merged = heapq.heappop(heap)
        right = following[left]
        if right == GONE or merges.get((symbols[left], symbols[right]), (0, GONE))[1] != merged:
            continue  # one of the two has changed since this pair was pushed
        symbols[left], symbols[right] = merged, GONE
        after = following[left] = following[right]
        if after != GONE:
            preceding[after] = left
        push(preceding[left], left)
        push(left, after)
    return [symbol for symbol in symbols if symbol != GONE]


def unpack_merges(array: NDArray[np.uint8], tokens: int) -> NDArray[np.uint32]:
    """u32 m, then m triples -> (m, 3). Raises TokenizerError if they are cut short or name an id the table has not."""
    count = int(read_u32(array, "merges", head=1)[0])
    if count > MAX_TOKENS or 4 * (1 + 3 * count) > array.size:
        raise TokenizerError(f"the tokenizer's merges say {count} triples of 12 bytes; there are {array.size - 4} bytes")
    merges = read_u32(array, "merges", head=1 + 3 * count)[1:].reshape(count, 3)
    if merges.max(initial=0) >= tokens:
        raise TokenizerError(f"merges name ids below {tokens}, the size of the token table; one names {merges.max()}")
    return merges
