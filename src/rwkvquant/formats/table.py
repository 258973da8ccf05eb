"""The table of tensors: what the packed file says about each one, as JSON and as TensorEntry."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from rwkvquant.codecs import Packing, codec_of_layout
from rwkvquant.codecs.packing import Sizes, aligned
from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.ledger import ROLES
from rwkvquant.formats.strict_json import shown
from rwkvquant.transforms import Applied, transform_named

UNKNOWN_TO_THIS_VERSION = ("input_permutation",)  # keys that would change what a tensor means
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_SUFFIX = re.compile(r"[a-z_]{1,32}")
_CRC = re.compile(r"[0-9a-f]{8}")
Found = TypeVar("Found")


def transform_bytes(transform: Applied, width: int) -> int:
    """Bytes of its arrays in the file, with padding; 0 for one that what makes the input applies."""
    if transform.folded:
        return 0
    return sum(dtype.itemsize * count for dtype, count in aligned(transform.transform.sizes(transform.values, width)).values())


@dataclass(frozen=True)
class TransformEntry:
    """What the table says about a transform: "none", or {"name", its values, "arrays": checksums}."""

    name: str = "none"
    values: Mapping[str, int] = field(default_factory=dict)
    checksums: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> str | dict[str, Any]:
        if not self.values and not self.checksums:
            return self.name
        return {"name": self.name, **self.values, "arrays": _hex(self.checksums)}

    @classmethod
    def from_json(cls, value: Any, what: str) -> TransformEntry:
        """Raises FormatError for a transform that is not known, or values that it does not have."""
        if isinstance(value, str):
            value = {"name": value}
        entry = strict_json.typed(value, dict, what)
        name = strict_json.field(entry, "name", str, what)
        keys = _of(what, transform_named, name).keys
        values = {key: strict_json.field(entry, key, kind, what) for key, kind in keys.items()}
        arrays = strict_json.field(entry, "arrays", dict, what) if "arrays" in entry else {}
        return cls(name, values, parse_checksums(arrays, what))


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file.

    `packing` has layout, shape ((out, in) for matrices) and the parameters of the layout's codec. `source_shape` is the shape in the
    checkpoint (of the slice, if a tensor was cut into slices), with as many elements. `transposed` says that the checkpoint stores
    (in, out). `checksums` are suffix -> CRC-32 of the stored array, with padding. `extra` is any JSON of the writer (errors, clip ratios).
    """

    name: str
    role: str
    method: str
    packing: Packing
    source_shape: tuple[int, ...]
    transposed: bool
    checksums: dict[str, int]
    input_transform: TransformEntry = field(default_factory=TransformEntry)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def layout(self) -> str:
        return self.packing.layout

    @property
    def shape(self) -> tuple[int, ...]:
        return self.packing.shape

    @property
    def weights(self) -> int:
        return math.prod(self.packing.shape)

    @property
    def has_native_product(self) -> bool:
        """Whether the native module multiplies with it as it is stored."""
        return self.packing.codec.native(self.packing) is not None

    def check(self) -> None:
        """Raises FormatError for a name, role, method, layout, shape or transform that is not allowed."""
        what = shown(self.name)
        if not _NAME.fullmatch(self.name) or self.name.split(".")[0] == "tokenizer":
            raise FormatError(f"a tensor's name is letters, digits, _ - and dots, and does not begin with tokenizer; got {what}")
        if self.role not in ROLES:
            raise FormatError(f"role of {what} must be one of {', '.join(ROLES)}; got {shown(self.role)}")
        if not _NAME.fullmatch(self.method):
            raise FormatError(f"method of {what} must be a plain word; got {shown(self.method)}")
        _of(what, lambda layout: codec_of_layout(layout, stored=True), self.layout)
        transform, changed = _of(what, transform_named, self.input_transform.name), self.input_transform.name != "none"
        if changed and len(self.shape) != 2:
            raise FormatError(f"input_transform of {what} must belong to a matrix; the tensor's shape is {list(self.shape)}")
        _of(what, lambda values: transform.check(values, self.shape[-1]), self.input_transform.values)
        if math.prod(self.source_shape) != self.weights:
            raise FormatError(f"source_shape of {what} must have {self.weights} elements; got {list(self.source_shape)}")

    def arrays(self) -> Iterator[tuple[str, int]]:
        """(array's name in the file, checksum) of the tensor and of its transform."""
        for suffix, checksum in self.checksums.items():
            yield f"{self.name}.{suffix}", checksum
        for suffix, checksum in self.input_transform.checksums.items():
            yield transform_array(self.name, suffix), checksum

    def sizes(self) -> Sizes:
        """Array's name in the file -> (dtype, elements). Raises FormatError for arrays of the table that the layout does not have."""
        found: Sizes = {}
        for kind, checksums, sizes, name_of in self._owners():
            if checksums.keys() != sizes.keys():
                raise FormatError(
                    f"[layout] {kind} has the arrays {', '.join(sizes) or 'none'}; got {', '.join(checksums) or 'none'} ({self.name})"
                )
            found |= {name_of(suffix): sizes[suffix] for suffix in checksums}
        return found

    def _owners(self) -> Iterator[tuple[str, Mapping[str, int], Sizes, Callable[[str], str]]]:
        yield self.layout, self.checksums, _of(self.name, lambda packing: packing.sizes(), self.packing), f"{self.name}.{{}}".format
        transform = self.input_transform
        if transform.name != "none" or transform.checksums:
            sizes = transform_named(transform.name).sizes(transform.values, self.shape[-1])
            yield transform.name, transform.checksums, aligned(sizes), lambda suffix: transform_array(self.name, suffix)

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name, "role": self.role, "method": self.method, "layout": self.layout, "shape": self.shape}
        entry |= self.packing.values
        entry |= {"source_shape": self.source_shape, "transposed": self.transposed}
        entry |= {"input_transform": self.input_transform.to_json(), "output_transform": "none"}
        entry["arrays"] = _hex(self.checksums)
        return entry | ({"extra": self.extra} if self.extra else {})

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> TensorEntry:
        """Raises FormatError. Keys that are not known are left aside, but for those that would change what the tensor means."""
        name = strict_json.field(entry, "name", str, "an entry of the table")
        what = shown(name)
        layout = strict_json.field(entry, "layout", str, what)
        codec = _of(what, lambda layout: codec_of_layout(layout, stored=True), layout)
        values = {key: strict_json.field(entry, key, kind, what) for key, kind in codec.keys.items()}
        for key in UNKNOWN_TO_THIS_VERSION:
            if key in entry:
                raise FormatError(f"this version reads no {key} ({what}). Try a newer rwkvquant.")
        output = entry.get("output_transform", "none")
        if output != "none":
            raise FormatError(f"this version applies no transform to outputs; got {shown(output)} ({what}). Try a newer rwkvquant.")
        result = cls(
            name,
            strict_json.field(entry, "role", str, what),
            strict_json.field(entry, "method", str, what),
            Packing(layout, strict_json.sizes(entry, "shape", what), values),
            strict_json.sizes(entry, "source_shape", what),
            strict_json.field(entry, "transposed", bool, what),
            parse_checksums(strict_json.field(entry, "arrays", dict, what), what),
            TransformEntry.from_json(entry.get("input_transform", "none"), f"input_transform of {what}"),
            strict_json.field(entry, "extra", dict, what) if "extra" in entry else {},
        )
        result.check()
        return result


def transform_array(name: str, suffix: str) -> str:
    """What the file calls an array of a tensor's input transform."""
    return f"{name}.input_transform.{suffix}"


def _of(what: str, find: Callable[[Any], Found], key: Any) -> Found:
    """`find(key)`, and a FormatError of it names the tensor."""
    try:
        return find(key)
    except FormatError as error:
        raise FormatError(f"{error} ({what})") from None


def _hex(checksums: Mapping[str, int]) -> dict[str, str]:
    return {suffix: f"{crc:08x}" for suffix, crc in checksums.items()}


def parse_checksums(arrays: dict[str, Any], what: str) -> dict[str, int]:
    """{suffix: 8 hex digits} -> {suffix: CRC-32}. Raises FormatError."""
    for suffix, crc in arrays.items():
        if not _SUFFIX.fullmatch(suffix) or type(crc) is not str or not _CRC.fullmatch(crc):
            raise FormatError(f"arrays of {what} must map plain suffixes to 8 hex digits; got {shown(suffix)}: {shown(crc)}")
    return {suffix: int(crc, 16) for suffix, crc in arrays.items()}


def encode_table(entries: list[TensorEntry]) -> str:
    return json.dumps({"tensors": [entry.to_json() for entry in entries]}, separators=(",", ":"), allow_nan=False)


def decode_table(text: str) -> dict[str, TensorEntry]:
    """name -> entry, in file order. Raises FormatError."""
    entries = strict_json.field(strict_json.parse_object(text, "the table of tensors"), "tensors", list, "the table of tensors")
    tensors: dict[str, TensorEntry] = {}
    for value in entries:
        entry = TensorEntry.from_json(strict_json.typed(value, dict, "an entry of the table"))
        if entry.name in tensors:
            raise FormatError(f"the table names {shown(entry.name)} twice")
        tensors[entry.name] = entry
    return tensors
