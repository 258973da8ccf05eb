"""What `tokenizers` takes for letters, numbers and spaces, asked for every code point.

`python -m tests.runtime.unicode_ranges` writes assets/unicode_ranges.txt.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Regex, normalizers

import rwkvquant

EVERY_CHARACTER = "".join(chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000)
KINDS = {"letter": r"\p{L}+", "number": r"\p{N}+", "space": r"\s+"}


def unicode_ranges() -> str:
    lines = ["# first last kind: the characters that byte-level BPE takes for letters, numbers and spaces (Unicode 16)"]
    for kind, pattern in KINDS.items():
        kept = set(normalizers.Replace(Regex(pattern), "").normalize_str(EVERY_CHARACTER))
        ranges: list[list[int]] = []
        for code in (ord(character) for character in EVERY_CHARACTER if character not in kept):
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
        lines += [f"{first:04X} {last:04X} {kind}" for first, last in ranges]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    Path(rwkvquant.__file__).with_name("assets").joinpath("unicode_ranges.txt").write_text(unicode_ranges(), encoding="ascii")
