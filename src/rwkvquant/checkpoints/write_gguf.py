"""Write a GGUF file, tensor by tensor; gguf_header.py describes the format. It needs no package."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterable, Mapping
from typing import BinaryIO

from rwkvquant.checkpoints.gguf_header import ARRAY, MAGIC, STRING, BlockType, GgufTensor

VERSION, ALIGNMENT = 3, 32
U32, I32, F32 = 4, 5, 6
Value = int | float | str | list[str] | list[int]


def write_gguf(
    out: BinaryIO, entries: Mapping[str, Value], tensors: Mapping[str, tuple[BlockType, tuple[int, ...]]], data: Callable[[str], bytes]
) -> None:
    """`entries`: int becomes u32, float f32, a list of int i32. `tensors`: name -> (type, shape with the first axis first).

    `data(name)`: the bytes of a tensor, asked for once, in order. Raises OSError.
    """
    infos, offset = [], 0
    for name, (kind, shape) in tensors.items():
        assert shape[-1] % kind.block == 0, f"{name}: rows of {shape[-1]} in blocks of {kind.block}"
        size = math.prod(shape) // kind.block * kind.size
        infos.append(GgufTensor(name, kind, shape, offset, offset + size))
        offset += _padded(size)
    head = b"".join(_header(entries, infos))
    out.write(head.ljust(_padded(len(head)), b"\0"))
    for info in infos:
        values = data(info.name)
        assert len(values) == info.end - info.begin, info.name
        out.write(values)
        out.write(bytes(_padded(len(values)) - len(values)))


def _padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _header(entries: Mapping[str, Value], infos: list[GgufTensor]) -> Iterable[bytes]:
    yield MAGIC + struct.pack("<IQQ", VERSION, len(infos), len(entries))
    for key, value in entries.items():
        yield _text(key)
        yield _value(value)
    for info in infos:
        yield _text(info.name)
        yield struct.pack(f"<I{len(info.shape)}QIQ", len(info.shape), *reversed(info.shape), info.type.number, info.begin)


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + _text(value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(_text(str(item)) for item in value)
    return struct.pack(f"<IIQ{len(value)}i", ARRAY, I32, len(value), *value)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data
