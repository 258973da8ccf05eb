"""A packed file back to a dequantised .pth under the checkpoint's own names and shapes, as the `rwkv` package loads it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, check_output, open_packed

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


def export_pth(file: str, output: str, dtype: str = "fp16") -> dict[str, Any]:
    """Write the decoded weights of `file` to `output`. Raises ConfigError for an unknown dtype, FormatError for a bad file."""
    if dtype not in DTYPES:
        raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}; got {dtype}")
    check_output(output)
    state_dict = {name: values.to(DTYPES[dtype]) for name, values in source_tensors(open_packed(file)).items()}
    partial = Path(output).with_name(f".{Path(output).name}.partial")
    try:
        torch.save(state_dict, partial)
        os.replace(partial, output)
    finally:
        partial.unlink(missing_ok=True)
    return {"output": output, "tensors": len(state_dict), "file_bytes": os.path.getsize(output)}


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
