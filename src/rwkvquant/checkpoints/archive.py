"""Where the members of a zip are, for zips that torch.save writes: not compressed, one folder, perhaps zip64.

This is not a zip library. It reads the directory at the end of the file and each member's local header. It refuses everything that
torch.save does not write: compression, encryption, several disks, comments, two members with one name, members that overlap.
So a member is a plain range of bytes, and a range of bytes belongs to one member.

Layout of the records: APPNOTE.TXT 6.3.10 by PKWARE, sections 4.3.7 (local), 4.3.12 (directory), 4.3.14 to 4.3.16 (end records).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from itertools import pairwise

from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

LOCAL = struct.Struct("<4s5H3I2H")
ENTRY = struct.Struct("<4s6H3I5H2I")
END = struct.Struct("<4s4H2IH")
END64_LOCATOR = struct.Struct("<4sIQI")
END64 = struct.Struct("<4sQ2H2I4Q")
END_SIGNATURE = b"PK\x05\x06"
STORED, ENCRYPTED = 0, 1
SEARCHED_FOR_END = 1 << 20  # bytes at the end of a file that are searched for an end record, to explain what is wrong
IN_ZIP64 = 0xFFFFFFFF  # a 32-bit field that holds this has its value in the zip64 extra field


@dataclass(frozen=True)
class Member:
    """The bytes [offset, offset + size) of the file. `crc` is their CRC-32, or None if the writer computed none."""

    name: str
    offset: int
    size: int
    crc: int | None


def find_members(file: memoryview) -> dict[str, Member]:
    """The members of a mapped zip, by name. Raises CheckpointError for a file that is truncated or breaks a rule above."""
    try:
        return _find_members(file)
    except (struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"the zip directory is damaged ({error})") from error


def _find_members(file: memoryview) -> dict[str, Member]:
    start, end, count = _directory(file)
    members: dict[str, Member] = {}
    ranges = []
    position = start
    while position < end:
        member, header, position = _entry(file, position, end)
        if member.name in members:
            raise CheckpointError(f"the zip has two members named {shown(member.name)!r}")
        if not start >= member.offset + member.size:
            raise CheckpointError(f"the zip member {shown(member.name)!r} reaches past the data: the file is truncated or altered")
        members[member.name] = member
        ranges.append((header, member.offset + member.size, member.name))
    if len(members) != count or position != end:
        raise CheckpointError(f"the zip directory promises {count} members and holds {len(members)}")
    ranges.sort()
    for (_, stop, name), (begin, _, other) in pairwise(ranges):
        if begin < stop:
            raise CheckpointError(f"the zip members {shown(name)!r} and {shown(other)!r} overlap")
    # torch.utils.serialization.config.save.compute_crc32 = False leaves 0 in every member.
    if not any(member.crc for member in members.values()):
        return {name: replace(member, crc=None) for name, member in members.items()}
    return members


def _directory(file: memoryview) -> tuple[int, int, int]:
    """(start, end, number of entries) of the central directory."""
    end_at = len(file) - END.size
    if end_at < 0 or bytes(file[end_at : end_at + 4]) != END_SIGNATURE:
        raise CheckpointError(_why_no_end(file))
    _, disk, first_disk, here, count, size, start, comment = END.unpack_from(file, end_at)
    locator_at = end_at - END64_LOCATOR.size
    if locator_at >= 0 and bytes(file[locator_at : locator_at + 4]) == b"PK\x06\x07":
        _, _, end_at, _ = END64_LOCATOR.unpack_from(file, locator_at)
        if end_at + END64.size > locator_at:
            raise CheckpointError("the zip64 end record is outside the file: the file is truncated or altered")
        signature, _, _, _, disk, first_disk, here, count, size, start = END64.unpack_from(file, end_at)
        if signature != b"PK\x06\x06":
            raise CheckpointError("the zip64 end record is missing")
    if disk or first_disk or here != count or comment:
        raise CheckpointError("torch.save writes a zip without a comment and on one disk; this file has a comment or several disks")
    if start + size != end_at:
        raise CheckpointError("the zip directory does not end where the end record begins: the file is truncated or altered")
    return start, start + size, count


def _why_no_end(file: memoryview) -> str:
    """The sentence for a file that does not end with an end record: it is truncated, or it has bytes after its end."""
    searched = bytes(file[-SEARCHED_FOR_END:])
    end_record_at = searched.rfind(END_SIGNATURE)
    after = len(searched) - end_record_at - END.size
    if end_record_at >= 0 and after > 0:
        return f"the zip ends at byte {len(file) - after}, and there are {after} bytes after the end; download or copy the file again"
    return "the zip directory at the end of the file is missing: the file is truncated; download or copy it again"


def _entry(file: memoryview, position: int, end: int) -> tuple[Member, int, int]:
    """(member, where its local header begins, where the next entry of the directory begins)."""
    fields = ENTRY.unpack_from(file, position)
    signature, _, _, flags, method, _, _, crc, packed_size, size, name_length, extra_length, comment_length, disk, _, _, header = fields
    name_at = position + ENTRY.size
    following = name_at + name_length + extra_length + comment_length
    if signature != b"PK\x01\x02" or following > end or disk:
        raise CheckpointError("the zip directory holds something that is not an entry")
    raw_name = bytes(file[name_at : name_at + name_length])
    name = raw_name.decode()
    extra = bytes(file[name_at + name_length : name_at + name_length + extra_length])
    size, packed_size, header = _widen([size, packed_size, header], extra, name)
    if method != STORED or flags & ENCRYPTED or packed_size != size:
        raise CheckpointError(f"the zip member {shown(name)!r} is compressed or encrypted; torch.save does neither, so save it again")

    if header + LOCAL.size + name_length > len(file):
        raise CheckpointError(f"the local header of the zip member {shown(name)!r} is outside the file: the file is truncated or altered")
    signature, _, local_flags, local_method, _, _, _, _, _, local_name_length, local_extra_length = LOCAL.unpack_from(file, header)
    local_name = bytes(file[header + LOCAL.size : header + LOCAL.size + local_name_length])
    if signature != b"PK\x03\x04" or local_name != raw_name or local_method != STORED or local_flags & ENCRYPTED:
        raise CheckpointError(f"the local header of the zip member {shown(name)!r} contradicts the directory")
    return Member(name, header + LOCAL.size + local_name_length + local_extra_length, size, crc), header, following


def _widen(values: list[int], extra: bytes, name: str) -> list[int]:
    """Replace each value that is IN_ZIP64 by the next 64-bit value of the zip64 extra field (id 1)."""
    if IN_ZIP64 not in values:
        return values
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            widened = [next(wide, -1) if value == IN_ZIP64 else value for value in values]
            if -1 not in widened:
                return widened
        position += 4 + length
    raise CheckpointError(f"the zip member {shown(name)!r} lacks its 64-bit size or offset")
