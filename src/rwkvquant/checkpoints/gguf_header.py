"""The header of a GGUF file (llama.cpp's format, version 2 or 3), read so that no size in it is believed before it is checked.

    "GGUF", u32 version, u64 tensors, u64 entries
    entries    string key, u32 kind, value           kinds: numbers, bool, string, array (u32 kind, u64 count, items)
    tensors    string name, u32 axes, u64 sizes[axes], u32 type, u64 offset          sizes: the last axis first
    values     from the next multiple of general.alignment (32) on; offsets count from there

A string is u64 bytes, then UTF-8. All numbers are little-endian. The `gguf` package has a reader too; it loops over an array as often
as the file says, and believes offsets, so it is not for files from strangers.
"""

from __future__ import annotations

import itertools
import math
import struct
from dataclasses import dataclass
from typing import Any

from rwkvquant.checkpoints.tensor_info import check_name
from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)  # version 1 has 32-bit lengths, and was never written for RWKV
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_ENTRIES, MAX_TENSORS = 1 << 12, 1 << 16  # llama.cpp's converter writes 30 entries; the largest RWKV-6 has 1,500 tensors
MAX_ITEMS = 1 << 20  # of an array; the World vocabulary has 65,536 tokens
MAX_STRING = 1 << 20
MAX_AXES = 4


@dataclass(frozen=True)
class BlockType:
    """`block` weights of a row take `size` bytes. `name` is as in TensorInfo.dtype."""

    number: int
    name: str
    block: int
    size: int


TYPES = {
    number: BlockType(number, name, block, size)
    for number, name, block, size in (
        (0, "float32", 1, 4),
        (1, "float16", 1, 2),
        (2, "q4_0", 32, 18),
        (3, "q4_1", 32, 20),
        (6, "q5_0", 32, 22),
        (7, "q5_1", 32, 24),
        (8, "q8_0", 32, 34),
        (10, "q2_K", 256, 84),
        (11, "q3_K", 256, 110),
        (12, "q4_K", 256, 144),
        (13, "q5_K", 256, 176),
        (14, "q6_K", 256, 210),
        (16, "iq2_xxs", 256, 66),
        (17, "iq2_xs", 256, 74),
        (18, "iq3_xxs", 256, 98),
        (19, "iq1_s", 256, 50),
        (20, "iq4_nl", 32, 18),
        (21, "iq3_s", 256, 110),
        (22, "iq2_s", 256, 82),
        (23, "iq4_xs", 256, 136),
        (29, "iq1_m", 256, 56),
        (30, "bfloat16", 1, 2),
    )
}


@dataclass(frozen=True)
class GgufTensor:
    """`shape` with the first axis first; its bytes are begin .. end of the file."""

    name: str
    type: BlockType
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True)
class GgufHeader:
    entries: dict[str, Any]
    tensors: dict[str, GgufTensor]


def read_header(data: memoryview) -> GgufHeader:
    """`data` is the whole file, mapped. Raises CheckpointError for a file that is cut short or breaks a rule of the format."""
    cursor = _Cursor(data)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in VERSIONS:
        raise CheckpointError(f"GGUF files of version 2 or 3, little-endian, can be read; this one says version {version}")
    tensor_count, entry_count = cursor.number("Q"), cursor.number("Q")
    for what, count, most in (("tensors", tensor_count, MAX_TENSORS), ("entries", entry_count, MAX_ENTRIES)):
        if count > most:
            raise CheckpointError(f"a GGUF file has at most {most} {what}; this one says {count}")
    entries: dict[str, Any] = {}
    for _ in range(entry_count):
        key = cursor.text()
        if key in entries:
            raise CheckpointError(f"the GGUF file gives {shown(key)} twice")
        entries[key] = cursor.value(cursor.number("I"))
    infos = [_tensor_info(cursor) for _ in range(tensor_count)]
    alignment = entries.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"general.alignment of a GGUF file is a power of two; got {shown(str(alignment))}")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, kind, shape, offset in infos:
        if name in tensors:
            raise CheckpointError(f"the GGUF file holds {shown(name)} twice")
        if offset % alignment:
            raise CheckpointError(f"values begin at a multiple of {alignment} bytes in this GGUF file; {name} begins at {offset}")
        size = math.prod(shape) // kind.block * kind.size
        tensors[name] = GgufTensor(name, kind, shape, start + offset, start + offset + size)
    _check_places(sorted(tensors.values(), key=lambda tensor: tensor.begin), len(data))
    return GgufHeader(entries, tensors)


def _tensor_info(cursor: _Cursor) -> tuple[str, BlockType, tuple[int, ...], int]:
    name = cursor.text()
    check_name(name)
    axes = cursor.number("I")
    if not 1 <= axes <= MAX_AXES:
        raise CheckpointError(f"a tensor of a GGUF file has 1 to {MAX_AXES} dimensions; {name} has {axes}")
    shape = tuple(cursor.number("Q") for _ in range(axes))[::-1]
    number, offset = cursor.number("I"), cursor.number("Q")
    if min(shape) < 1:
        raise CheckpointError(f"sizes are at least 1; {name} has the shape {shape}")
    if number not in TYPES:
        known = ", ".join(kind.name for kind in TYPES.values())
        raise CheckpointError(f"the types of GGUF that can be read are {known}; {name} has the type with the number {number}")
    kind = TYPES[number]
    if shape[-1] % kind.block:
        raise CheckpointError(f"rows of type {kind.name} have a multiple of {kind.block} weights; {name} has {shape[-1]}")
    return name, kind, shape, offset


def _check_places(tensors: list[GgufTensor], file_bytes: int) -> None:
    """In the file, and no byte in two tensors: else a small file could pretend to be a large model."""
    if not tensors:
        raise CheckpointError("the GGUF file holds no tensors")
    for before, after in itertools.pairwise(tensors):
        if after.begin < before.end:
            raise CheckpointError(f"tensors must not share bytes; {before.name} and {after.name} do")
    if tensors[-1].end > file_bytes:
        raise CheckpointError(
            f"the tensors end at byte {tensors[-1].end} and the file has {file_bytes}: the file is truncated; download or copy it again"
        )


class _Cursor:
    """Reads from the start to the end. Raises CheckpointError where the file ends before what it promises."""

    def __init__(self, data: memoryview) -> None:
        self._data, self.at = data, 0

    def take(self, size: int) -> memoryview:
        if size > len(self._data) - self.at:
            raise CheckpointError("the GGUF file ends inside its header: it is truncated; download or copy it again")
        self.at += size
        return self._data[self.at - size : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        size = self.number("Q")
        if size > MAX_STRING:
            raise CheckpointError(f"a string in the header of a GGUF file has at most {MAX_STRING} bytes; one says {size}")
        return bytes(self.take(size)).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.text()
        if kind != ARRAY:
            raise CheckpointError(f"an entry of a GGUF file is a number, a string or an array of those; one has the kind {kind}")
        item, count = self.number("I"), self.number("Q")
        if count > MAX_ITEMS:
            raise CheckpointError(f"an array in the header of a GGUF file has at most {MAX_ITEMS} items; one says {count}")
        if item in NUMBERS:
            return list(struct.unpack(f"<{count}{NUMBERS[item]}", self.take(count * struct.calcsize(NUMBERS[item]))))
        if item != STRING:
            raise CheckpointError(f"an array of a GGUF file holds numbers or strings; one has the kind {item}")
        return [self.text() for _ in range(count)]
