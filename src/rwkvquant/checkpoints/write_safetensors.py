"""Write a safetensors file for other tools, one tensor in memory at a time."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.safetensors_file import KNOWN, LAYOUT_KEY, SafetensorsFile
from rwkvquant.checkpoints.values import DTYPES

ALIGNMENT = 64  # of the first value; the format asks for none, and readers that map the file are glad of it


def write_safetensors(
    out: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: str, values: Callable[[str], NDArray[Any]], layout: str
) -> None:
    """`values` gives each tensor of `shapes`, as checkpoints/values.py's `as_stored` does. The header is read again at the end.

    `layout`, a name of names.py, stands in the metadata: shapes alone do not always tell how the LoRA factors are turned.

    `out` is an open file that has a name, and is empty. Raises OSError.
    """
    code = next(code for code, name in KNOWN.items() if name == dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", LAYOUT_KEY: layout}}  # transformers refuses files that do not say so
    at = 0
    for name, shape in shapes.items():
        end = at + math.prod(shape) * DTYPES[dtype][1]
        header[name] = {"dtype": code, "shape": list(shape), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGNMENT)
    out.write(len(text).to_bytes(8, "little") + text)
    for name, shape in shapes.items():
        array = values(name)
        assert array.shape == shape and array.dtype == np.dtype(DTYPES[dtype][0])
        out.write(np.ascontiguousarray(array).data)
    out.flush()
    assert SafetensorsFile(Path(out.name)).tensors.keys() == shapes.keys()
