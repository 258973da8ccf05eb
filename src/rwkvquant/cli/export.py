"""rwkvquant export: a packed file back to dequantised weights, for the `rwkv` package, Hugging Face, fla and web-rwkv."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import JsonOption, emit, human_bytes, stdout


def command(
    file: Annotated[str, typer.Argument(help="A packed file.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write; for hf and fla a new directory.")],
    layout: Annotated[str, typer.Option(help="pth | safetensors | hf | fla | web-rwkv | gguf, see docs/checkpoints.md.")] = "pth",
    dtype: Annotated[str, typer.Option(help="fp16 | bf16 | fp32")] = "fp16",
    as_json: JsonOption = False,
) -> None:
    """Write dequantised weights in the layout of another tool."""
    from rwkvquant.export.layouts import export

    result = export(file, output, dtype, layout)
    emit(result, as_json, lambda: stdout.print(f"{output}: {result['tensors']} tensors, {human_bytes(result['file_bytes'])}"))
