"""A tokenizer from a file: a tokenizer.json, or a World vocabulary. The content decides which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.runtime.tokenizer_json import OtherKindError, parse_tokenizer_json
from rwkvquant.runtime.tokenizer_limits import MAX_BYTES
from rwkvquant.runtime.tokenizer_package import INSTALL, PackageTokenizer, is_installed, same_ids
from rwkvquant.runtime.tokenizer_world import WorldTokenizer, parse_vocabulary
from rwkvquant.stand_in import HEAD_BYTES, stand_in

# What readers of a tokenizer.json are known to differ in. No combining marks from after Unicode 9: tokenizer_added.py says why.
HARD = (
    "The quick brown fox, it's we'll I've THEY'RE 'd don't; e.g. 3.14 + 1,000 = 1003.14? (yes) [no] {ok} <|endoftext|> </s> [CLS] ##a",
    "  two   three    four\ttab\t\ttabs\n\n\nlines \r\n  end   ",
    "def f(x):\n    if x != 0:\n        return f(x - 1)  # ok\n",
    "naïve café e\u0301 \u212b \ufb01ne İstanbul ß ẞ ½ x² Ⅷ ٣ 北京大学 東京タワー 한국어 ไทย العربية हिन्दी Ελληνικά Привет",
    "😀👩\u200d👩\u200d👧🏽 \u00a0\u3000\u2028\u200b\ufeff\x00\x1c\x85\U00010d40",
    " " * 30 + "\n" * 5 + "a" * 300 + "1" * 20 + "." * 20,
)


def load_file(path: Path, vocab_size: int, samples: Sequence[str] = ()) -> Tokenizer:
    """Raises TokenizerError, which names the file, for one that is neither. `samples` as for `parse`."""
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait forever
            raise TokenizerError(f"a tokenizer is world, bytes or a file; {path} is not a regular file")
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
        if len(raw) > MAX_BYTES:
            raise TokenizerError(f"a tokenizer file has at most {MAX_BYTES >> 20} MB; {path} has more")
        if sentence := stand_in(raw[:HEAD_BYTES]):
            raise TokenizerError(f"{path}: {sentence}")
        text = raw.decode("utf-8")
    except OSError as error:
        raise TokenizerError(f"a tokenizer is world, bytes or a file; {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        line = 1 + error.object.count(b"\n", 0, error.start)
        raise TokenizerError(f"line {line}: a tokenizer file is text in UTF-8; this line is not ({path})") from None
    return parse(text, vocab_size, str(path), samples)


def parse(text: str, vocab_size: int, source: str, samples: Sequence[str] | None = None) -> Tokenizer:
    """The content of a tokenizer file -> the tokenizer. `source` says in messages where it is from.

    A tokenizer.json is read by our own reader if that can express it, and else by the `tokenizers` package. Where the package is
    installed, both must make the same ids of HARD and of `samples`; otherwise the package is used. With `samples` None nothing is
    compared.
    """
    try:
        tokenizer = _from_json(text, vocab_size, samples) if text.lstrip().startswith("{") else _from_vocabulary(text, vocab_size)
    except TokenizerError as error:
        raise TokenizerError(f"{error} ({source})") from None
    tokenizer.source = source
    return tokenizer


def _from_json(text: str, vocab_size: int, samples: Sequence[str] | None) -> Tokenizer:
    try:
        own = parse_tokenizer_json(text, vocab_size)
    except OtherKindError as reason:
        if not is_installed():
            raise TokenizerError(f"{reason}; only the tokenizers package reads such a file, so install it: {INSTALL}") from None
        return PackageTokenizer(text, vocab_size)
    if samples is None or same_ids(own, text, (*HARD, *samples)):
        return own
    return PackageTokenizer(text, vocab_size)


def _from_vocabulary(text: str, vocab_size: int) -> Tokenizer:
    tokens = parse_vocabulary(text)
    return WorldTokenizer([tokens.get(i, b"") for i in range(max(tokens) + 1)], vocab_size)
