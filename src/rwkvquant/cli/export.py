"""rwkvquant export: a packed file back to a dequantised .pth, for the `rwkv` package and other tools."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import JsonOption, emit, human_bytes, stdout


def command(
    file: Annotated[str, typer.Argument(help="A packed file.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The .pth to write.")],
    dtype: Annotated[str, typer.Option(help="fp16 | bf16 | fp32")] = "fp16",
    as_json: JsonOption = False,
) -> None:
    """Write the dequantised weights under the checkpoint's own names and shapes."""
    from rwkvquant.pipeline.export import export_pth

    result = export_pth(file, output, dtype)
    emit(result, as_json, lambda: stdout.print(f"{output}: {result['tensors']} tensors, {human_bytes(result['file_bytes'])}"))
