"""A packed file back to a dequantised .pth under the checkpoint's own names and shapes, as the `rwkv` package loads it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, BinaryIO

import torch

from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, check_output, open_packed
from rwkvquant.formats.writer import one_sentence

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def export_pth(file: str, output: str, dtype: str = "fp16") -> dict[str, Any]:
    """Write the decoded weights of `file` to `output`. Raises ConfigError for an unknown dtype, FormatError for a bad file."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype}")
    check_output(output, file)
    state_dict = {name: _converted(name, values, dtype) for name, values in source_tensors(open_packed(file)).items()}
    partial = Path(output).with_name(f".{Path(output).name}.{os.getpid()}.partial")
    try:
        with one_sentence(Path(output)), partial.open("xb") as out:
            _save(state_dict, out)
            os.fsync(out.fileno())
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return {"output": output, "tensors": len(state_dict), "file_bytes": os.path.getsize(output)}


def _save(state_dict: dict[str, torch.Tensor], out: BinaryIO) -> None:
    """torch.save reports a failed write as a RuntimeError about its own bookkeeping; the error underneath is what the user needs."""
    try:
        torch.save(state_dict, out)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _converted(name: str, values: torch.Tensor, dtype: str) -> torch.Tensor:
    converted = values.to(DTYPES[dtype])
    if not bool(torch.isfinite(converted).all()):
        raise ConfigError(f"{name} holds values that {dtype} cannot; try --dtype bf16 or fp32")
    return converted


def source_tensors(packed: PackedFile) -> dict[str, torch.Tensor]:
    """Every tensor decoded, under the name and in the shape that the checkpoint has; slices are put together again."""
    tensors: dict[str, torch.Tensor] = {}
    slices: dict[str, list[torch.Tensor]] = {}
    for name, entry in packed.tensors.items():
        values = torch.from_numpy(packed.qtensor(name).decode())
        values = (values.T if entry.transposed else values).reshape(entry.source_shape).contiguous()
        stem, _, index = name.rpartition(".")
        if index.isdecimal():
            slices.setdefault(stem, []).append(values)
        else:
            tensors[name] = values
    return tensors | {name: torch.stack(parts) for name, parts in slices.items()}
