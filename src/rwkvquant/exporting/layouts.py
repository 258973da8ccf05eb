"""Write the dequantised weights of a packed file for other tools, in one of their layouts (docs/checkpoints.md).

    pth          a file as torch.save writes it, BlinkDL's names        safetensors   a file, BlinkDL's names
    gguf         a file for llama.cpp, with the tokenizer
    hf, fla      a directory: config.json and model.safetensors         web-rwkv      a file, fp16

Tensors are decoded, converted and written one by one. Only for a .pth, which torch writes, all are in memory at once.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rwkvquant.checkpoints.names import name_table
from rwkvquant.checkpoints.values import as_stored
from rwkvquant.checkpoints.write_safetensors import write_safetensors
from rwkvquant.errors import CheckpointError, ConfigError
from rwkvquant.exporting.gguf import write_model
from rwkvquant.exporting.hf_config import hf_config
from rwkvquant.exporting.in_layout import InLayout, PackedSource
from rwkvquant.formats.container import check_output, open_text_packed
from rwkvquant.formats.disk import atomic_directory, atomic_write, replace_file
from rwkvquant.results import ExportResult

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
FILES = {"pth": "blinkdl", "safetensors": "blinkdl", "web-rwkv": "web-rwkv", "gguf": "gguf"}  # name of the option -> name of the table
DIRECTORIES = {"hf": "hf", "fla": "fla"}


def export(file: str | os.PathLike[str], output: str | os.PathLike[str], dtype: str = "fp16", layout: str = "pth") -> ExportResult:
    """Write the decoded weights of the packed file `file` to `output`, which for `hf` and `fla` is a new directory.

    `dtype`: fp16, bf16 or fp32. `layout`: pth, safetensors, hf, fla, web-rwkv or gguf. Only pth needs torch.

    Raises ConfigError for an unknown dtype or layout, a tensor that these cannot hold, or an output that must not be replaced;
    FormatError for a bad file. After an error there is no output.
    """
    file, output = os.fspath(file), os.fspath(output)
    _check(file, output, dtype, layout)
    packed = open_text_packed(file)
    names = name_table((FILES | DIRECTORIES)[layout], packed.architecture)
    if names is None:
        raise ConfigError(f"there is no layout {layout} for {packed.architecture.title}; try --layout pth or safetensors")
    stored = InLayout(PackedSource(packed), names)

    def values(name: str) -> NDArray[Any]:
        try:
            return as_stored(name, stored.values(name), DTYPES[dtype])
        except CheckpointError:
            raise ConfigError(f"{name} has values outside the range of {dtype}; try --dtype bf16 or fp32") from None

    def write(path: Path) -> None:
        with atomic_write(path) as out:
            if layout == "pth":
                from rwkvquant.exporting.pth import write_pth  # the only layout that needs torch

                write_pth(out, {name: values(name) for name in stored.shapes}, dtype)
            elif layout == "gguf":
                write_model(out, PackedSource(packed), packed.dims, packed.tokenizer, DTYPES[dtype])
            else:
                write_safetensors(out, stored.shapes, DTYPES[dtype], values, (FILES | DIRECTORIES)[layout])

    if layout in DIRECTORIES:
        with atomic_directory(Path(output)) as folder:
            config = hf_config(packed.arch, packed.dims, layout, DTYPES[dtype])
            replace_file(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
            write(folder / "model.safetensors")
    else:
        write(Path(output))
    written = Path(output)
    size = sum(part.stat().st_size for part in written.iterdir()) if written.is_dir() else written.stat().st_size
    return ExportResult(output, layout, len(stored.shapes), size)


def _check(file: str, output: str, dtype: str, layout: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype}")
    if layout not in FILES | DIRECTORIES:
        raise ConfigError(f"layout must be one of {', '.join(FILES | DIRECTORIES)}; got {layout}")
    if layout == "web-rwkv" and dtype != "fp16":
        raise ConfigError(f"web-rwkv reads fp16 only; got {dtype}. Leave --dtype out")
    if layout in DIRECTORIES and Path(output).exists():
        raise ConfigError(f"the layout {layout} needs a new directory; {output} exists already. Try another name")
    check_output(output, file)
