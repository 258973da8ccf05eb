"""rwkvquant verify: tests the table, every checksum, and that each tensor can be decoded."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import JsonOption, emit, stdout


def command(file: Annotated[str, typer.Argument(help="A packed file.")], as_json: JsonOption = False) -> None:
    """Check a packed file to the last byte."""
    from rwkvquant.runtime.inspection import verify

    tensors = verify(file)
    result = {"file": file, "ok": True, "tensors": tensors}
    emit(result, as_json, lambda: stdout.print(f"{file}: {tensors} tensors, all checksums are right"))
