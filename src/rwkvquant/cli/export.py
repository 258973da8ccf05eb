"""rwkvquant export: dequantised weights of a packed file for other tools, or a checkpoint rounded onto llama.cpp's block types."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rwkvquant.cli.output import JsonOption, emit, human_bytes, stdout
from rwkvquant.cli.progress import quantize_progress
from rwkvquant.config import GGUF_TYPES, CalibrationConfig
from rwkvquant.errors import ConfigError

_CALIBRATION = CalibrationConfig()


def command(
    file: Annotated[str, typer.Argument(help="A packed file; with --gguf-type a checkpoint.")],
    output: Annotated[str, typer.Option("--output", "-o", help="The file to write; for hf and fla a new directory.")],
    layout: Annotated[str, typer.Option(help="pth | safetensors | hf | fla | web-rwkv | gguf, see docs/checkpoints.md.")] = "pth",
    dtype: Annotated[str, typer.Option(help="fp16 | bf16 | fp32")] = "fp16",
    gguf_type: Annotated[
        str | None, typer.Option(help="With --layout gguf: q8_0 | q4_K | q4_0 | q3_K. Rounds a checkpoint with error feedback.")
    ] = None,
    calib: Annotated[str | None, typer.Option(help="With --gguf-type: the calibration text. Default: the text in the package.")] = None,
    calib_rows: Annotated[int, typer.Option(help="Rows of calibration text.")] = _CALIBRATION.rows,
    calib_len: Annotated[int, typer.Option(help="Tokens in a row.")] = _CALIBRATION.length,
    tokenizer: Annotated[str | None, typer.Option(help="With --gguf-type, as in quantize: world | bytes | a file.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write dequantised weights in the layout of another tool."""
    if gguf_type is not None:
        result = _in_blocks(file, output, layout, gguf_type, CalibrationConfig(calib, calib_rows, calib_len), tokenizer)
    else:
        from rwkvquant.exporting.layouts import export

        result = export(file, output, dtype, layout).to_json()
    emit(result, as_json, lambda: stdout.print(f"{output}: {result['tensors']} tensors, {human_bytes(result['file_bytes'])}"))


def _in_blocks(
    file: str, output: str, layout: str, gguf_type: str, calibration: CalibrationConfig, tokenizer: str | None
) -> dict[str, Any]:
    from rwkvquant.checkpoints import open_text_checkpoint
    from rwkvquant.exporting.gguf import check_tokenizer, export_blocks
    from rwkvquant.formats.container import check_output
    from rwkvquant.pipeline.gguf import gguf_matrices
    from rwkvquant.runtime.session import is_packed
    from rwkvquant.runtime.tokenizer import load_tokenizer

    if layout != "gguf":
        raise ConfigError(f"--gguf-type goes with --layout gguf; got --layout {layout}")
    if gguf_type not in GGUF_TYPES:
        raise ConfigError(f"--gguf-type must be one of {', '.join(GGUF_TYPES)}; got {gguf_type}")
    if is_packed(file):
        raise ConfigError(f"--gguf-type rounds the original weights; {file} is a packed file. Give the checkpoint that it was made from")
    checkpoint = open_text_checkpoint(file)
    check_output(output, file, *map(str, checkpoint.inputs()), *filter(None, (calibration.path, tokenizer)))
    found = load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    check_tokenizer(found.to_data())  # before an hour of rounding
    matrices = gguf_matrices(checkpoint, gguf_type, found, calibration, quantize_progress())
    return export_blocks(checkpoint, output, found.to_data(), matrices, gguf_type)
