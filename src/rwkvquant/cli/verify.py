"""rwkvquant verify: tests the table, every checksum, and that each tensor can be decoded."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import JsonOption, emit, stdout


def command(file: Annotated[str, typer.Argument(help="A packed file.")], as_json: JsonOption = False) -> None:
    """Check a packed file to the last byte."""
    from rwkvquant.formats.container import open_packed

    packed = open_packed(file)
    packed.verify()
    result = {"file": file, "ok": True, "tensors": len(packed.tensors)}
    emit(result, as_json, lambda: stdout.print(f"{file}: {len(packed.tensors)} tensors, all checksums are right"))
