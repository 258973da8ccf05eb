"""The safetensors header of a packed file: where each flat array is, and the metadata strings.

    bytes 0..7          length of the header, u64 little-endian
    then                ASCII JSON, padded with spaces so that the data starts at a multiple of 64
    then                the arrays, one after another without gaps, each a multiple of 64 bytes

The JSON begins with PREFIX, the 8 hex digits of its own CRC-32, and a quote. The checksum is that of all header bytes (with the spaces,
without the 8 bytes of the length), computed with those digits set to "00000000".
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkvquant.codecs import ALIGNMENT
from rwkvquant.errors import FormatError
from rwkvquant.formats.strict_json import field, parse_object, shown, typed
from rwkvquant.kernels.tiles import padded
from rwkvquant.stand_in import HEAD_BYTES, stand_in

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 << 20
PREFIX = b'{"__metadata__":{"header_crc32":"'
WRITTEN_AGAIN = "If another tool has written the file again, use the original file"
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(f"<{name[0].lower()}{int(name[1:]) // 8}") for name in ("U8", "I8", "U16", "I16", "U32", "I32", "F16", "F32")
}
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredArray:
    """A flat array: `count` elements at bytes begin..end of the file's data."""

    dtype: np.dtype[Any]
    count: int
    begin: int
    end: int


@dataclass(frozen=True)
class Header:
    metadata: dict[str, str]
    arrays: dict[str, StoredArray]
    data_start: int


def encode_header(metadata: dict[str, str], arrays: dict[str, tuple[np.dtype[Any], int]]) -> bytes:
    """Length, JSON and padding; `arrays` are name -> (dtype, elements) in the order of the data.

    Raises FormatError if the header is too long to be read again.
    """
    entries: dict[str, Any] = {"__metadata__": {"header_crc32": "0" * 8, **metadata}}
    at = 0
    for name, (dtype, count) in arrays.items():
        size = dtype.itemsize * count
        assert size % ALIGNMENT == 0 and name not in entries
        entries[name] = {"dtype": _DTYPE_NAMES[dtype], "shape": [count], "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    text = text.ljust(padded(LENGTH_BYTES + len(text), ALIGNMENT) - LENGTH_BYTES)
    if len(text) > MAX_HEADER_BYTES:
        raise FormatError(f"the table of tensors takes {len(text)} bytes; at most {MAX_HEADER_BYTES} can be read again")
    return len(text).to_bytes(LENGTH_BYTES, "little") + with_checksum(text)


def with_checksum(text: bytes) -> bytes:
    """The header's bytes with the right checksum in its place."""
    assert text.startswith(PREFIX)
    at, stop = len(PREFIX), len(PREFIX) + 8
    crc = zlib.crc32(text[stop:], zlib.crc32(b"0" * 8, zlib.crc32(text[:at])))
    return text[:at] + b"%08x" % crc + text[stop:]


def decode_header(data: memoryview) -> Header:
    """The header, from the bytes of a whole file. Raises FormatError if a rule of the module's docstring is broken."""
    if sentence := stand_in(bytes(data[:HEAD_BYTES])):
        raise FormatError(sentence)
    if len(data) < LENGTH_BYTES + len(PREFIX) + 8:
        raise FormatError(f"a packed file has a header; this file ends after {len(data)} bytes")
    length = int.from_bytes(data[:LENGTH_BYTES], "little")
    start = LENGTH_BYTES + length
    if bytes(data[LENGTH_BYTES : LENGTH_BYTES + len(PREFIX)]) != PREFIX:
        raise FormatError("this is not a packed file of rwkvquant, or another tool has written it again; use the original file")
    if length > MAX_HEADER_BYTES or start > len(data):
        limit = min(MAX_HEADER_BYTES, len(data) - LENGTH_BYTES)
        raise FormatError(f"the header may take {limit} bytes here; it says {length}. The file may be truncated.")
    if start % ALIGNMENT:
        raise FormatError(f"data must start at a multiple of {ALIGNMENT}; it starts at {start}. {WRITTEN_AGAIN}")
    text = bytes(data[LENGTH_BYTES:start])
    if with_checksum(text) != text:
        raise FormatError(f"the header's checksum does not match; the file was altered or damaged. {WRITTEN_AGAIN}")
    entries = parse_object(text, "the header")
    metadata = field(entries, "__metadata__", dict, "the header")
    for key, value in metadata.items():
        typed(value, str, f"{shown(key)} of the metadata")
    arrays = {name: _stored_array(name, entry) for name, entry in entries.items() if name != "__metadata__"}
    _check_offsets(arrays, len(data) - start)
    return Header(metadata, arrays, start)


def _stored_array(name: str, entry: Any) -> StoredArray:
    what = f"the header's entry {shown(name)}"
    entry = typed(entry, dict, what)
    dtype = DTYPES.get(field(entry, "dtype", str, what))
    shape, offsets = field(entry, "shape", list, what), field(entry, "data_offsets", list, what)
    if dtype is None:
        raise FormatError(f"{what} must have one of the dtypes {', '.join(DTYPES)}; got {shown(entry['dtype'])}")
    if len(shape) != 1 or len(offsets) != 2 or any(type(n) is not int or n < 0 for n in shape + offsets):
        raise FormatError(f"{what} must have one axis and two offsets; got {shown(shape)} and {shown(offsets)}")
    if offsets[1] - offsets[0] != shape[0] * dtype.itemsize:
        raise FormatError(f"{what} must take {shape[0] * dtype.itemsize} bytes; its offsets are {shown(offsets)}")
    return StoredArray(dtype, shape[0], offsets[0], offsets[1])


def _check_offsets(arrays: dict[str, StoredArray], data_bytes: int) -> None:
    """Arrays follow one another, aligned, from the first byte of the data to the last."""
    at = 0
    for name, array in sorted(arrays.items(), key=lambda item: (item[1].begin, item[1].end)):
        if array.begin != at:
            raise FormatError(
                f"arrays must follow one another without gaps; {shown(name)} should start at {at} and starts at {array.begin}"
            )
        if array.end % ALIGNMENT:
            raise FormatError(f"the length of every array must be a multiple of {ALIGNMENT}; {shown(name)} takes {array.end - array.begin}")
        at = array.end
    if at > data_bytes:
        raise FormatError(
            f"the arrays take {at} bytes, but {data_bytes} follow the header: the file is truncated; download or copy it again"
        )
    if at < data_bytes:
        raise FormatError(f"{data_bytes - at} bytes after the last array belong to nothing; download or copy the file again")
