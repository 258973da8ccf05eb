"""What a tokenizer.json does to a text before it cuts words: added tokens are found, and the rest is normalised.

Added tokens are whole strings that have an id, such as the runs of spaces of GPT-NeoX-20B. They are found as the `tokenizers`
package finds them: first those that are not `normalized`, in the text as it is; what lies between is normalised, and searched for
the others, whose own content is normalised too. The leftmost match wins, of several the longest. A special token takes part in
the search and then stays text (tokenizer_bpe.py says why).

NFC is Python's (unicodedata, Unicode 14 in Python 3.11). The `tokenizers` package has older tables, about Unicode 9: combining marks that
came later (98 in Unicode 14, of Arabic, Sogdian and other scripts) it does not put in order. For a text with such a mark next to
another the ids may differ, from the package and between versions of Python. All other characters give the same.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rwkvquant.errors import TokenizerError

MAX_ADDED, MAX_CONTENT = 4096, 256  # only a hostile file has more: each length costs time at each place of a text
NORMALIZERS = (None, "NFC")


@dataclass(frozen=True)
class AddedToken:
    content: str
    id: int
    normalized: bool
    special: bool


class AddedTokens:
    """`normalizer` None | "NFC". Raises TokenizerError for another, for too many tokens, and for one that is empty or long."""

    def __init__(self, tokens: Sequence[AddedToken] = (), normalizer: str | None = None) -> None:
        if normalizer not in NORMALIZERS:
            raise TokenizerError(f"the normalizer of a tokenizer is NFC or none; got {normalizer!r}")
        if len(tokens) > MAX_ADDED:
            raise TokenizerError(f"a tokenizer has at most {MAX_ADDED} added tokens; got {len(tokens)}")
        for token in tokens:
            if not 1 <= len(token.content) <= MAX_CONTENT:
                raise TokenizerError(f"an added token has 1 to {MAX_CONTENT} characters; got {token.content[:80]!r}")
        self.tokens, self.normalizer = tuple(tokens), normalizer
        self._as_it_is = _Finder({token.content: token for token in tokens if not token.normalized})
        self._normalised = _Finder({self._normalise(token.content): token for token in tokens if token.normalized})

    @property
    def change_text(self) -> bool:
        """False if no text is changed or divided."""
        return self.normalizer is not None or any(not token.special for token in self.tokens)

    def split(self, text: str) -> Iterator[str | int]:
        """Pieces of normalised text, none of them empty, and the ids of the added tokens between them."""
        for piece in self._as_it_is.split(text):
            if isinstance(piece, str):
                yield from self._normalised.split(self._normalise(piece))
            else:
                yield piece

    def _normalise(self, text: str) -> str:
        return text if self.normalizer is None else unicodedata.normalize("NFC", text)


class _Finder:
    """Finds the leftmost longest of some strings in a text."""

    def __init__(self, tokens: Mapping[str, AddedToken]) -> None:
        self._tokens = tokens
        lengths: dict[str, set[int]] = {}
        for content in tokens:
            lengths.setdefault(content[:2], {1}).add(len(content))
        self._lengths = {start: sorted(each, reverse=True) for start, each in lengths.items()}
        wanted = any(not token.special for token in tokens.values())  # otherwise there is nothing to find
        self._first = re.compile(f"[{re.escape(''.join({content[0] for content in tokens}))}]") if wanted else None

    def split(self, text: str) -> Iterator[str | int]:
        start = at = 0
        while self._first and (place := self._first.search(text, at)):
            begin = place.start()
            # A few slices at each place where some token may begin: those of the lengths that follow its first two characters.
            lengths = self._lengths.get(text[begin : begin + 2], (1,))
            end = next((begin + length for length in lengths if text[begin : begin + length] in self._tokens), begin)
            at = max(end, begin + 1)
            if end == begin or (token := self._tokens[text[begin:end]]).special:
                continue
            if start < begin:
                yield text[start:begin]
            yield token.id
            start = at
        if start < len(text):
            yield text[start:]


def pack_added(tokens: Sequence[AddedToken]) -> list[list[Any]]:
    """As plain JSON: [content, id, normalized, special] for each."""
    return [[token.content, token.id, token.normalized, token.special] for token in tokens]


def unpack_added(stored: Any, ids: int) -> list[AddedToken]:
    """What pack_added made. Raises TokenizerError for anything else, and for an id that is not below `ids`."""
    if not isinstance(stored, list):
        raise TokenizerError(f"added_tokens of a tokenizer is a list; got {type(stored).__name__}")
    tokens = []
    for entry in stored:
        if not (isinstance(entry, list) and [type(value) for value in entry] == [str, int, bool, bool] and 0 <= entry[1] < ids):
            raise TokenizerError(f"an added token is [content, id below {ids}, normalized, special]; got {str(entry)[:80]!r}")
        tokens.append(AddedToken(*entry))
    return tokens
