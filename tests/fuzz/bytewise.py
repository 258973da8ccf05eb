"""Damage to any kind of file: other bytes, missing bytes, more bytes."""

from __future__ import annotations

from tests.fuzz.choices import Choices

BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF)
MOST_ADDED = 4096


def damaged(content: bytes, choices: Choices) -> bytes:
    """`content` with one kind of damage."""
    kind, altered = choices.below(6), bytearray(content)
    at = choices.below(len(altered) + 1)
    if kind == 0:
        return bytes(altered[:at])
    if kind == 1:
        return bytes(altered) + choices.one_of((b"\0" * 64, b"\xff", b"PK\x05\x06" + b"\0" * 18, content[:MOST_ADDED]))
    if kind == 2:
        del altered[at : at + 1 + choices.below(64)]
    elif kind == 3:
        altered[at:at] = choices.bytes(1 + choices.below(16))
    elif altered:
        for _ in range(1 + choices.below(8)):
            here = choices.below(len(altered))
            altered[here] = choices.one_of(BYTES) if kind == 4 else altered[here] ^ 1 << choices.below(8)
    return bytes(altered)
