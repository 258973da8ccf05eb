"""Text to tokens for a server, where long texts often begin as earlier ones do: a conversation, a document with another question.

A tokenizer that takes the longest token at each place looks only at the bytes that the longest token could have there. So two texts with
the same beginning have the same tokens in it, but for the last few bytes, and these tokens need not be made again.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict

from rwkvquant.runtime.tokenizer_base import Tokenizer, utf8

KEPT, MOST = 16, 8 << 20  # texts, and their bytes together
SHORT = 1000  # bytes: shorter texts take less time than looking for their beginnings


class Encoder:
    """Gives what `Tokenizer.encode` gives. Not safe for several threads: the event loop alone uses it."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kept: OrderedDict[bytes, array[int]] = OrderedDict()  # the one that was used last comes last

    def encode(self, text: str) -> list[int]:
        """Raises TokenizerError as `Tokenizer.encode` does."""
        longest = self._tokenizer.longest
        if longest is None or len(text) < SHORT:
            return self._tokenizer.encode(text)
        source = utf8(text)
        known = max(self._kept, key=lambda each: same_bytes(each, source), default=b"")
        tokens = self._beginning(known, same_bytes(known, source), longest)
        tokens += self._tokenizer.encode_bytes(source[len(self._tokenizer.decode_bytes(tokens)) :])
        if 2 * same_bytes(known, source) > len(known):
            del self._kept[known]  # the new text takes its place
        self._kept[source] = array("I", tokens)
        while len(self._kept) > KEPT or sum(map(len, self._kept)) > MOST:
            self._kept.popitem(last=False)
        return tokens

    def _beginning(self, known: bytes, same: int, longest: int) -> list[int]:
        """The tokens of `known` for which only its first `same` bytes were looked at."""
        tokens, at = self._kept.get(known, array("I")), len(known)
        count = len(tokens)
        while count:
            at -= len(self._tokenizer.decode_bytes(tokens[count - 1 : count]))
            if at + longest <= same:
                break
            count -= 1
        return tokens[:count].tolist()


def same_bytes(a: bytes, b: bytes) -> int:
    """How many bytes both begin with."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
