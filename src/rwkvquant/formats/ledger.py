"""The ledger says what every byte of a packed file is used for. Only here are true bits per weight counted, from stored bytes.

`bits_per_weight` is that of projections and LoRA factors together, with scales, zeros, codebooks and padding. A planned ledger (before
anything is quantised) has the same form, with sizes from `CodecConfig.stored_bytes` and without a header.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

ROLES = ("projection", "lora", "elementwise", "norm", "bias", "setting", "state", "embedding", "head", "carried")

_ROWS = (
    ("projections", ("projection",)),
    ("LoRA factors", ("lora",)),
    ("element-wise vectors", ("elementwise",)),
    ("norms and biases", ("norm", "bias", "setting")),
    ("tuned state", ("state",)),
    ("embedding", ("embedding",)),
    ("head", ("head",)),
    ("carried along", ("carried",)),
)


@dataclass(frozen=True)
class LedgerItem:
    """One tensor: `weights` logical elements in `stored_bytes`, side information and padding included."""

    name: str
    role: str
    weights: int
    stored_bytes: int
    method: str
    layout: str
    shape: tuple[int, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.stored_bytes / self.weights


@dataclass(frozen=True)
class LedgerRow:
    """One line for people. A `subtotal` counts bytes of other lines again; all other lines add up to the file."""

    label: str
    tensors: int
    weights: int
    stored_bytes: int
    subtotal: bool = False

    @property
    def bits_per_weight(self) -> float | None:
        return 8 * self.stored_bytes / self.weights if self.weights else None


@dataclass(frozen=True)
class Ledger:
    items: tuple[LedgerItem, ...]
    tokenizer_bytes: int = 0
    header_bytes: int = 0

    @property
    def file_bytes(self) -> int:
        return sum(item.stored_bytes for item in self.items) + self.tokenizer_bytes + self.header_bytes

    @property
    def weights(self) -> int:
        return sum(item.weights for item in self.items)

    @property
    def bits_per_weight(self) -> float | None:
        return self._row("projections and LoRA factors", ("projection", "lora"), subtotal=True).bits_per_weight

    @property
    def bits_per_weight_projections(self) -> float | None:
        return self._row("projections", ("projection",)).bits_per_weight

    @property
    def bits_per_weight_file(self) -> float | None:
        return 8 * self.file_bytes / self.weights if self.weights else None

    def rows(self) -> list[LedgerRow]:
        """The lines, from top to bottom, without roles that do not occur."""
        rows = [self._row(label, roles) for label, roles in _ROWS]
        rows.insert(2, self._row("projections and LoRA factors", ("projection", "lora"), subtotal=True))
        rows.append(LedgerRow("tokenizer", 0, 0, self.tokenizer_bytes))
        rows.append(LedgerRow("header", 0, 0, self.header_bytes))
        assert sum(row.stored_bytes for row in rows if not row.subtotal) == self.file_bytes
        rows.append(LedgerRow("file", len(self.items), self.weights, self.file_bytes, subtotal=True))
        return [row for row in rows if row.stored_bytes]

    def to_json(self) -> dict[str, Any]:
        return {
            "bits_per_weight": self.bits_per_weight,
            "bits_per_weight_projections": self.bits_per_weight_projections,
            "bits_per_weight_file": self.bits_per_weight_file,
            "file_bytes": self.file_bytes,
            "ledger": [row_json(row) for row in self.rows()],
            "tensors": [item_json(item) for item in self.items],
        }

    def _row(self, label: str, roles: Iterable[str], subtotal: bool = False) -> LedgerRow:
        chosen = [item for item in self.items if item.role in roles]
        return LedgerRow(label, len(chosen), sum(i.weights for i in chosen), sum(i.stored_bytes for i in chosen), subtotal)


def make_item(
    name: str, role: str, shape: tuple[int, ...], stored_bytes: int, method: str, layout: str, extra: dict[str, Any] | None = None
) -> LedgerItem:
    """A LedgerItem of a tensor of this shape."""
    return LedgerItem(name, str(role), math.prod(shape), stored_bytes, method, layout, tuple(shape), extra or {})


def row_json(row: LedgerRow) -> dict[str, Any]:
    return {
        "label": row.label,
        "tensors": row.tensors,
        "weights": row.weights,
        "stored_bytes": row.stored_bytes,
        "bits_per_weight": row.bits_per_weight,
        "subtotal": row.subtotal,
    }


def item_json(item: LedgerItem) -> dict[str, Any]:
    return item.extra | {
        "name": item.name,
        "role": item.role,
        "method": item.method,
        "layout": item.layout,
        "shape": list(item.shape),
        "stored_bytes": item.stored_bytes,
        "bits_per_weight": item.bits_per_weight,
    }
