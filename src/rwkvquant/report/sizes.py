"""The ledger: what every byte of the file is used for."""

from __future__ import annotations

from rwkvquant.formats.container import PackedFile
from rwkvquant.report.plot import Plot
from rwkvquant.report.svg import WIDTH, drawing, rectangle, text

LEFT, RIGHT, ROW = 190, 150, 34


def size_plot(packed: PackedFile) -> Plot:
    ledger = packed.ledger().rows()
    rows = [row for row in ledger if not row.subtotal]
    most = max(row.stored_bytes for row in rows)
    parts = []
    for index, row in enumerate(rows):
        y, length = 6 + ROW * index, (WIDTH - LEFT - RIGHT) * row.stored_bytes / most
        share = f"{row.stored_bytes:,} B, {100 * row.stored_bytes / packed.file_bytes:.1f} %"
        parts += [text(LEFT - 10, y + 18, row.label, "end", "label"), rectangle(LEFT, y, length, ROW - 10, "bar", f"{row.label}: {share}")]
        parts.append(text(LEFT + length + 8, y + 18, share, name="tick"))
    about = f"The bars add up to the file, {packed.file_bytes:,} bytes. The longest is {max(rows, key=lambda r: r.stored_bytes).label}."
    title = "Where the bytes go"
    body = tuple(
        (
            row.label + (" (counted above)" if row.subtotal and row.label != "file" else ""),
            f"{row.tensors:,}" if row.tensors else "",
            f"{row.weights:,}" if row.weights else "",
            f"{row.stored_bytes:,}",
            f"{row.bits_per_weight:.3f}" if row.bits_per_weight is not None else "",
        )
        for row in ledger
    )
    head = ("", "tensors", "weights", "bytes", "bits per weight")
    return Plot("sizes", title, about, drawing("sizes", title, about, parts, WIDTH, 12 + ROW * len(rows)), head, body)
