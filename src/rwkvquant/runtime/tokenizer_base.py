"""What every tokenizer has: encode, decode, a decoder for streams, and the form in which a packed file stores it."""

from __future__ import annotations

import codecs
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData


class Tokenizer(ABC):
    """Text to ids and back. Ids run from 0 to `size` - 1; one that no token has (the end of text, padding) decodes to nothing."""

    def __init__(self, tokens: Sequence[bytes], size: int | None = None) -> None:
        """`tokens[i]` are the bytes of id i, empty if unused. `size` counts the model's ids where it has more than the tokenizer."""
        self._tokens = tokens
        self.known = len(tokens)  # ids that the tokenizer itself has
        self.source = ""  # where it was found, for people
        self.size = max(len(tokens), size or 0)

    @property
    def longest(self) -> int | None:
        """For a tokenizer that takes the longest token at each place, whatever is before it: the most bytes of a token. Else None."""
        return None

    def encode_bytes(self, source: bytes) -> list[int]:
        """UTF-8, or the end of one that begins at a token, to ids: for a tokenizer that has `longest`."""
        raise NotImplementedError

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Plain text to ids; the content of a special token is text like any other. Raises TokenizerError for text that is not Unicode."""

    @abstractmethod
    def to_data(self) -> TokenizerData:
        """What `tokenizer.from_data` needs to make this tokenizer again."""

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the tokens, joined. Raises TokenizerError for an id outside the vocabulary."""
        return b"".join(map(self._token_bytes, ids))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; bytes that are not UTF-8 become U+FFFD. Raises TokenizerError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def stream_decoder(self, after: Sequence[int] = ()) -> StreamDecoder:
        """`after`: the ids before. Some tokenizers (tokenizer_package.py) write the first word of a text without its space."""
        return StreamDecoder(self)

    def _token_bytes(self, token: int) -> bytes:
        token = token_id(token, self.size)
        return self._tokens[token] if token < len(self._tokens) else b""


class StreamDecoder:
    """Ids one at a time to text, complete characters only: a character may be spread over several tokens.

    What all calls return, joined, is what `decode` makes of all ids.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        """The characters that this token completes, often none."""
        return self._decoder.decode(self._tokenizer.decode_bytes([token]))

    @property
    def within_character(self) -> bool:
        """Whether the ids so far end within a character."""
        return bool(self._decoder.getstate()[0])

    def finish(self) -> str:
        """U+FFFD if the ids ended within a character, and nothing otherwise."""
        return self._decoder.decode(b"", final=True)


def token_ids(tokens: Iterable[int], size: int) -> list[int]:
    """The ids as plain integers. Raises TokenizerError for text, and for an id that is not an integer or not in 0 to size - 1.

    1.9 is refused and not taken as 1. NumPy's integers are integers.
    """
    if isinstance(tokens, str | bytes | bytearray | memoryview):
        advice = "tokenizer.encode(text) makes ids of text" if isinstance(tokens, str) else "decode them to text first: data.decode()"
        raise TokenizerError(f"tokens are a sequence of integers; got {type(tokens).__name__}. Try: {advice}")
    return [token_id(token, size) for token in tokens]


def token_id(token: int, size: int) -> int:
    """One of `token_ids`."""
    if isinstance(token, bool) or not hasattr(token, "__index__"):
        raise TokenizerError(f"token ids are integers; got {token!r}, which is of type {type(token).__name__}")
    try:
        number = operator.index(token)
    except TypeError:  # arrays have the method, and refuse when it is called
        raise TokenizerError(f"token ids are integers; got {type(token).__name__} {token!r}") from None
    if not 0 <= number < size:
        raise TokenizerError(f"token ids of this model run from 0 to {size - 1}; got {token}")
    return number


def utf8(text: str) -> bytes:
    """Raises TokenizerError for half a surrogate pair: Python makes them of arguments that are not UTF-8, and UTF-8 has none."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"text must be Unicode; character {error.start} is half a surrogate pair, {text[error.start]!r}") from None
