"""A packed file back to dequantised weights for other tools, in one of their layouts (docs/checkpoints.md).

    pth          a file as torch.save writes it, BlinkDL's names        safetensors   a file, BlinkDL's names
    hf, fla      a directory: config.json and model.safetensors         web-rwkv      a file, fp16

Tensors are decoded, turned and written one by one; only a .pth, which torch writes, has them all in memory.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from rwkvquant.checkpoints.names import LAYOUTS
from rwkvquant.checkpoints.values import as_stored
from rwkvquant.checkpoints.write_safetensors import write_safetensors
from rwkvquant.errors import CheckpointError, ConfigError
from rwkvquant.export.hf_config import hf_config
from rwkvquant.export.packed_in_layout import PackedInLayout
from rwkvquant.formats.container import PackedFile, check_output, open_packed
from rwkvquant.formats.disk import one_sentence, sync_directory

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
FILES = {"pth": "blinkdl", "safetensors": "blinkdl", "web-rwkv": "web-rwkv"}  # name of the option -> name of the table
DIRECTORIES = {"hf": "hf", "fla": "fla"}


def export(file: str, output: str, dtype: str = "fp16", layout: str = "pth") -> dict[str, Any]:
    """Write the decoded weights of `file` to `output`, which for `hf` and `fla` is a directory to make.

    Raises ConfigError for an unknown dtype or layout, a tensor that these cannot hold, or an output that is in the way; FormatError
    for a bad file. Then nothing stands under the final name.
    """
    _check(file, output, dtype, layout)
    packed = open_packed(file)
    stored = PackedInLayout(packed, LAYOUTS[(FILES | DIRECTORIES)[layout], packed.arch])

    def values(name: str) -> NDArray[Any]:
        try:
            return as_stored(name, stored.values(name), DTYPES[dtype])
        except CheckpointError:
            raise ConfigError(f"{name} holds values that {dtype} cannot; try --dtype bf16 or fp32") from None

    with _beside(Path(output), packed if layout in DIRECTORIES else None, layout, dtype) as partial, one_sentence(Path(output)):
        if layout == "pth":
            from rwkvquant.export.pth import write_pth  # the only layout that needs torch

            write_pth(partial, {name: values(name) for name in stored.shapes}, dtype)
        else:
            write_safetensors(partial, stored.shapes, DTYPES[dtype], values, (FILES | DIRECTORIES)[layout])
    written = Path(output)
    size = sum(part.stat().st_size for part in written.iterdir()) if written.is_dir() else written.stat().st_size
    return {"output": output, "layout": layout, "tensors": len(stored.shapes), "file_bytes": size}


def _check(file: str, output: str, dtype: str, layout: str) -> None:
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype}")
    if layout not in FILES | DIRECTORIES:
        raise ConfigError(f"layout must be one of {', '.join(FILES | DIRECTORIES)}; got {layout}")
    if layout == "web-rwkv" and dtype != "fp16":
        raise ConfigError(f"web-rwkv reads fp16 only; got {dtype}. Leave --dtype out")
    if layout in DIRECTORIES and Path(output).exists():
        raise ConfigError(f"the layout {layout} is a directory that is made; {output} exists already. Try another name")
    check_output(output, file)


@contextmanager
def _beside(output: Path, directory_of: PackedFile | None, layout: str, dtype: str) -> Iterator[Path]:
    """The path to write weights to; what was written there is synced and gets the final name at the end, or goes away."""
    partial = output.with_name(f".{output.name}.{os.getpid()}.partial")
    try:
        weights = partial
        if directory_of is not None:
            with one_sentence(output):
                partial.mkdir()
                config = hf_config(directory_of.arch, directory_of.dims, layout, DTYPES[dtype])
                (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            weights = partial / "model.safetensors"
        yield weights
        with one_sentence(output):
            for written in [weights] if weights == partial else [weights, partial / "config.json"]:
                with written.open("rb") as file:
                    os.fsync(file.fileno())
            if weights != partial:
                sync_directory(partial)
            os.replace(partial, output)
        sync_directory(output.parent)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial)
        partial.unlink(missing_ok=True)
