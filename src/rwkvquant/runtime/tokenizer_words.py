"""How byte-level BPE cuts text into words before it merges (GPT-2's pattern, `ByteLevel` with `use_regex` in the `tokenizers` package).

    's|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+

The standard `re` has no \\p{L}. What it and `unicodedata` take for a letter depends on the version of Python, and a model must not
read a text differently for that. So the ranges of Unicode 16 are in assets/unicode_ranges.txt, and are written into the pattern.
"""

from __future__ import annotations

import functools
import re
from importlib import resources

ASSET = "unicode_ranges.txt"


def split_words(text: str) -> list[str]:
    """The words of a text; joined they are the text."""
    return _pattern().findall(text)


@functools.cache
def _pattern() -> re.Pattern[str]:
    letters, numbers, spaces = (_character_class(name) for name in ("letter", "number", "space"))
    return re.compile(
        rf"'(?:s|t|re|ve|m|ll|d)| ?[{letters}]+| ?[{numbers}]+| ?[^{spaces}{letters}{numbers}]+|[{spaces}]+(?![^{spaces}])|[{spaces}]+"
    )


def _character_class(name: str) -> str:
    """The inside of [...] for lines `first last name` of the asset, in hexadecimal."""
    text = resources.files("rwkvquant").joinpath("assets", ASSET).read_text(encoding="ascii")
    lines = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return "".join(rf"\U{int(first, 16):08x}-\U{int(last, 16):08x}" for first, last, kind in lines if kind == name)
