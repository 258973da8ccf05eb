"""Any other tokenizer.json, by the `tokenizers` package: the only file that imports it.

A tokenizer.json that is not byte-level BPE (Unigram, WordPiece, another way to cut words, another normalizer) is kept whole, and the
package makes ids and text of it. So a packed file with it needs the package to run. tokenizer_limits.py says what is refused.

As with the other tokenizers, special tokens in a text are plain text, none are added (`add_special_tokens=False`: post-processors do
nothing), and they decode to nothing. Unigram and WordLevel have special tokens among their words, and may find them in a text. `truncation`
and `padding` are switched off. An unknown word becomes what the file says, or is an error that the package words.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_base import StreamDecoder, Tokenizer, token_id, utf8
from rwkvquant.runtime.tokenizer_limits import MAX_BYTES, check_limits

INSTALL = "pip install 'rwkv-hybridquant[tokenizers]'"
WINDOW, KEPT = 64, 16  # tokens: a stream decodes at most so many again for each new one, and then goes on from the last few
BROKEN = "\ufffd"
T = TypeVar("T")


class PackageTokenizer(Tokenizer):
    """`text` is the tokenizer.json. Raises TokenizerError where the package is missing, or refuses it."""

    def __init__(self, text: str, size: int | None = None) -> None:
        check_limits(text)
        self._text = text
        self._inner = _call(_open, text, doing="read this tokenizer.json")
        known = max(self._inner.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        if not known:
            raise TokenizerError("a tokenizer has at least one token; this tokenizer.json has none")
        super().__init__((), max(known, size or 0))
        self.known = known
        self._silent = {i for i, token in self._inner.get_added_tokens_decoder().items() if token.special}

    def encode(self, text: str) -> list[int]:
        utf8(text)  # refuses half a surrogate pair
        return list(_call(self._inner.encode, text, add_special_tokens=False, doing="encode this text").ids)

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return self.decode(ids).encode("utf-8")

    def decode(self, ids: Iterable[int]) -> str:
        """As the package decodes. Not always the tokens one after another: words may be joined with spaces between them."""
        heard = [token for token in ids if not self.is_silent(token)]
        return str(_call(self._inner.decode, heard, skip_special_tokens=True, doing="decode these ids"))

    def is_silent(self, token: int) -> bool:
        """Whether an id is left out when ids are decoded. Raises TokenizerError for one outside the vocabulary."""
        token = token_id(token, self.size)
        return token >= self.known or token in self._silent

    def stream_decoder(self, after: Sequence[int] = ()) -> StreamDecoder:
        return _Stream(self, after)

    def to_data(self) -> TokenizerData:
        return TokenizerData("json", {}, {"json": np.frombuffer(self._text.encode("utf-8"), np.uint8)})


class _Stream(StreamDecoder):
    """Decodes the last tokens again with each new one, and returns what is new.

    U+FFFD at the end is held back: it may be a part of a character. What all calls return, joined, is what `decode` makes of all ids
    if that has no U+FFFD. Otherwise it may differ: for bytes that are no UTF-8, some decoders take back characters that were valid.
    """

    def __init__(self, tokenizer: PackageTokenizer, after: Sequence[int]) -> None:
        self._decode, self._is_silent = tokenizer.decode, tokenizer.is_silent
        self._ids = next((ids for ids in _ends(after) if BROKEN not in self._decode(ids)), [])
        self._text = self._decode(self._ids)
        self._given = len(self._text)  # so many of its characters were returned

    def push(self, token: int) -> str:
        if self._is_silent(token):
            return ""
        self._text = self._decode([*self._ids, token])
        self._ids.append(token)
        piece = self._take(len(self._text.rstrip(BROKEN)))
        if len(self._ids) >= WINDOW and not self.within_character:
            self._shorten()
        return piece

    @property
    def within_character(self) -> bool:
        return self._given < len(self._text)

    def finish(self) -> str:
        return self._take(len(self._text))

    def _take(self, end: int) -> str:
        piece = self._text[self._given : end]
        self._given = max(self._given, end)
        return piece

    def _shorten(self) -> None:
        """Go on from the last tokens, if they decode alone as they do after the others; the first space may be missing."""
        for ids in _ends(self._ids):
            text = self._decode(ids)
            if text.strip() and self._text.endswith(text.lstrip()):
                self._ids, self._text, self._given = ids, text, len(text)
                return


def _ends(ids: Sequence[int]) -> Iterator[list[int]]:
    """The last tokens, about KEPT. A character has up to four tokens of a byte each, so one of these four begins with a whole one."""
    return (list(ids[-count:]) for count in range(KEPT, KEPT + 4))


def unpack_package(array: NDArray[np.uint8], size: int | None = None) -> PackageTokenizer:
    """The tokenizer of a packed file's array `json`: UTF-8, perhaps zeros after it. Raises TokenizerError for anything else."""
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > MAX_BYTES + 64:
        raise TokenizerError(f"the tokenizer's json is a flat array of at most {MAX_BYTES} bytes; got {array.dtype} {array.shape}")
    try:
        text = array.tobytes().rstrip(b"\0").decode("utf-8")
    except UnicodeDecodeError as error:
        raise TokenizerError(f"the tokenizer's json is text in UTF-8; byte {error.start} is not") from None
    return PackageTokenizer(text, size)


def is_installed() -> bool:
    try:
        return importlib.util.find_spec("tokenizers") is not None
    except ValueError:  # a module without a specification is in its place
        return False


def same_ids(own: Tokenizer, text: str, samples: Sequence[str]) -> bool:
    """Whether the package makes the same ids as `own` of all samples. True if it is not installed, or does not read the file."""
    if not is_installed():
        return True
    try:
        package = PackageTokenizer(text)
        return all(own.encode(sample) == package.encode(sample) for sample in samples)
    except TokenizerError:
        return True


def _open(text: str) -> Any:
    from tokenizers import Tokenizer as Package

    inner = Package.from_str(text)
    inner.encode_special_tokens = True
    inner.no_truncation()
    inner.no_padding()
    return inner


def _call(function: Callable[..., T], *args: Any, doing: str, **options: Any) -> T:
    """Raises TokenizerError for every error of the package. A panic of its Rust code is a BaseException, and no Exception."""
    try:
        return function(*args, **options)
    except ImportError:
        raise TokenizerError(f"only the tokenizers package can {doing}; install it: {INSTALL}") from None
    except (KeyboardInterrupt, SystemExit, MemoryError):
        raise
    except BaseException as error:
        words = " ".join(str(error).split())[:200]
        raise TokenizerError(f"the tokenizers package cannot {doing}: {words}") from None
