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

ALIGNMENT = 64  # bytes, of the first value: not required by the format, but good for readers that map the file


def write_safetensors(
    out: BinaryIO, shapes: Mapping[str, tuple[int, ...]], dtype: str, values: Callable[[str], NDArray[Any]], layout: str
) -> None:
    """`values(name)` gives the array of each tensor of `shapes`, as `as_stored` of checkpoints/values.py makes it.

    `layout`, a name of names.py, is written to the metadata: shapes do not always show whether LoRA factors are transposed.
    `out` is an open, empty file that has a name. At the end the header is read again and checked. Raises OSError.
    """
    code = next(code for code, name in KNOWN.items() if name == dtype)
    header: dict[str, Any] = {"__metadata__": {"format": "pt", LAYOUT_KEY: layout}}  # transformers needs this "format"
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
