"""The table of tensors: what the packed file says of each one, as JSON and as TensorEntry."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field
from typing import Any

from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.layout import TensorParams, parse_layout
from rwkvquant.formats.ledger import ROLES
from rwkvquant.formats.strict_json import shown

TRANSFORMS = ("none",)  # reserved: scale, hadamard+sign
PARAMETERS: dict[str, dict[str, type]] = {  # what the table says of a tensor beside its shape, by codec
    "uniform": {"group_size": int, "symmetric": bool, "scale_bits": int},
    "codebook": {"group_rows": int, "rank": int, "shift": int},
    "pairs": {"group_rows": int},
    "dense": {},
}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,199}")
_SUFFIX = re.compile(r"[a-z_]{1,32}")
_CRC = re.compile(r"[0-9a-f]{8}")


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of the file.

    `source_shape` is the checkpoint's (of the slice, where a tensor was cut in slices) and has as many elements as
    `params.shape`, which is (out, in) for matrices; `transposed` says that the checkpoint keeps (in, out). `checksums` are
    suffix -> CRC-32 of the stored array, padding included. `extra` is whatever the writer wants to tell (errors, clip ratios).
    """

    name: str
    role: str
    method: str
    layout: str
    params: TensorParams
    source_shape: tuple[int, ...]
    transposed: bool
    checksums: dict[str, int]
    input_transform: str = "none"
    output_transform: str = "none"
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.params.shape

    @property
    def weights(self) -> int:
        return math.prod(self.params.shape)

    def check(self) -> None:
        """Raises FormatError for a name, role, method, layout, shape or transform that is not allowed."""
        what = shown(self.name)
        if not _NAME.fullmatch(self.name) or self.name.split(".")[0] == "tokenizer":
            raise FormatError(f"a tensor's name is letters, digits, _ - and dots, and does not begin with tokenizer; got {what}")
        if self.role not in ROLES:
            raise FormatError(f"role of {what} must be one of {', '.join(ROLES)}; got {shown(self.role)}")
        if not _NAME.fullmatch(self.method):
            raise FormatError(f"method of {what} must be a plain word; got {shown(self.method)}")
        for transform in (self.input_transform, self.output_transform):
            if transform not in TRANSFORMS:
                raise FormatError(f"this version knows no transform {shown(transform)} ({what}). Try a newer rwkvquant.")
        if math.prod(self.source_shape) != self.weights:
            raise FormatError(f"source_shape of {what} must have {self.weights} elements; got {list(self.source_shape)}")

    def to_json(self) -> dict[str, Any]:
        entry: dict[str, Any] = {"name": self.name, "role": self.role, "method": self.method, "layout": self.layout, "shape": self.shape}
        entry |= {key: getattr(self.params, key) for key in PARAMETERS[parse_layout(self.layout).codec]}
        entry |= {"source_shape": self.source_shape, "transposed": self.transposed}
        entry |= {"input_transform": self.input_transform, "output_transform": self.output_transform}
        entry["arrays"] = {suffix: f"{crc:08x}" for suffix, crc in self.checksums.items()}
        return entry | ({"extra": self.extra} if self.extra else {})

    @classmethod
    def from_json(cls, entry: dict[str, Any]) -> TensorEntry:
        """Raises FormatError. Keys that are not known are left aside."""
        name = strict_json.field(entry, "name", str, "an entry of the table")
        what = shown(name)
        layout = strict_json.field(entry, "layout", str, what)
        shape = strict_json.sizes(entry, "shape", what)
        parameters = PARAMETERS[parse_layout(layout).codec]
        values: dict[str, Any] = {key: strict_json.field(entry, key, kind, what) for key, kind in parameters.items()}
        result = cls(
            name,
            strict_json.field(entry, "role", str, what),
            strict_json.field(entry, "method", str, what),
            layout,
            TensorParams(shape, **values),
            strict_json.sizes(entry, "source_shape", what),
            strict_json.field(entry, "transposed", bool, what),
            parse_checksums(strict_json.field(entry, "arrays", dict, what), what),
            strict_json.field(entry, "input_transform", str, what),
            strict_json.field(entry, "output_transform", str, what),
            strict_json.field(entry, "extra", dict, what) if "extra" in entry else {},
        )
        result.check()
        return result


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
