"""Zips written field by field, as torch.save writes them, so that any field of any record can be changed."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

from rwkvquant.checkpoints.archive import END, END64, END64_LOCATOR, ENTRY, LOCAL
from tests.fuzz.choices import Choices

NUMBERS = (0, 1, 2, 8, 0x2D, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF, 1 << 63)


@dataclass
class Record:
    """A struct of `form`, and the names and extra fields that follow it."""

    form: struct.Struct
    values: list[int | bytes]
    tail: bytes = b""

    def packed(self) -> bytes:
        return self.form.pack(*self.values) + self.tail


@dataclass
class Zip:
    """Records and contents in the file's order."""

    parts: list[Record | bytes] = field(default_factory=list)

    def packed(self) -> bytes:
        return b"".join(part if isinstance(part, bytes) else part.packed() for part in self.parts)

    def records(self) -> list[Record]:
        return [part for part in self.parts if isinstance(part, Record)]


def stored(members: list[tuple[str, bytes]], wide: bool = False) -> Zip:
    """A zip of uncompressed members; `wide` with the 64-bit fields that files beyond 4 GiB have."""
    archive, directory, at = Zip(), [], 0
    for name, content in members:
        crc, raw, size = zlib.crc32(content), name.encode("utf-8", "surrogatepass"), len(content)
        archive.parts += [Record(LOCAL, [b"PK\x03\x04", 45, 0, 0, 0, 0, crc, size, size, len(raw), 0], raw), content]
        extra = struct.pack("<HHQQQ", 1, 24, size, size, at) if wide else b""
        narrow = [0xFFFFFFFF] * 3 if wide else [size, size, at]
        entry = [b"PK\x01\x02", 45, 45, 0, 0, 0, 0, crc, narrow[0], narrow[1], len(raw), len(extra), 0, 0, 0, 0, narrow[2]]
        directory.append(Record(ENTRY, entry, raw + extra))
        at += LOCAL.size + len(raw) + size
    length, count = sum(len(entry.packed()) for entry in directory), len(members)
    archive.parts += directory
    if wide:
        archive.parts.append(Record(END64, [b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, at]))
        archive.parts.append(Record(END64_LOCATOR, [b"PK\x06\x07", 0, at + length, 1]))
    archive.parts.append(Record(END, [b"PK\x05\x06", 0, 0, *([0xFFFF] * 2 if wide else [count] * 2), length, at, 0]))
    return archive


def change_field(archive: Zip, choices: Choices) -> None:
    """One number of one record becomes another."""
    record = choices.one_of(archive.records())
    at = choices.below(len(record.values))
    old = record.values[at]
    if isinstance(old, bytes):
        record.values[at] = choices.one_of((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"\0\0\0\0"))
        return
    for new in (choices.one_of((*NUMBERS, old + 1, old - 1, old + 64)), 0):
        record.values[at] = new
        try:
            record.packed()
            return
        except struct.error:
            record.values[at] = old


def change_order(archive: Zip, choices: Choices) -> None:
    """A record or a content appears twice, elsewhere, or not at all."""
    at, kind = choices.below(len(archive.parts)), choices.below(3)
    part = archive.parts.pop(at)
    if kind:
        archive.parts.insert(choices.below(len(archive.parts) + 1), part)
    if kind == 2:
        archive.parts.insert(at, part)
