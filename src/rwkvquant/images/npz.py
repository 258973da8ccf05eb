"""Arrays of an .npz from anywhere. Nothing in it is run, and no memory is taken for what it only promises.

An .npz is a zip of .npy files. np.load would take the memory that a header of a few bytes asks for, and would unpack without a limit. Here
the sizes must agree first: what the header says, what the zip says, and MAX_BYTES. Arrays of Python objects are refused.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from rwkvquant.errors import ImageError

MAX_BYTES = 1 << 32  # of all arrays together
KINDS = "uif"  # whole numbers and fractions


def read_arrays(path: str, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Those of the arrays `names` that the file has. Raises ImageError for a file that is damaged or breaks a rule above."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist() if info.filename.endswith(".npy")}
            wanted = {name: members[name] for name in names if name in members}
            if (total := sum(info.file_size for info in wanted.values())) > MAX_BYTES:
                raise ImageError(
                    f"{path}: arrays may have at most {MAX_BYTES >> 30} GiB together; these have {total:,} bytes. Use a folder of images."
                )
            arrays = {}
            for name, info in wanted.items():
                with archive.open(info) as file:
                    arrays[name] = _array(file, info.file_size, f"{path}, array {name}")
            return arrays
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror or error}") from None
    except Exception as error:  # zipfile, zlib and the parser of headers each have their own exceptions for damaged data
        raise ImageError(f"{path}: the .npz is truncated or damaged ({' '.join(str(error).split()) or type(error).__name__})") from None


def _array(file: IO[bytes], size: int, name: str) -> NDArray[Any]:
    version = npy.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise ImageError(f"{name}: version 1.0 or 2.0 of the .npy format can be read; got {version[0]}.{version[1]}")
    shape, by_columns, dtype = (npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0)(file)
    if dtype.hasobject or dtype.kind not in KINDS:
        raise ImageError(f"{name}: arrays of images hold numbers; this one has the type {dtype}")
    count = math.prod(shape)
    if any(side < 0 for side in shape) or file.tell() + count * dtype.itemsize != size:
        raise ImageError(f"{name}: {dtype} {shape} needs {count * dtype.itemsize:,} bytes; the file has {size - file.tell():,}")
    data = file.read()
    if len(data) != count * dtype.itemsize:
        raise ImageError(f"{name}: the data is truncated")
    values = np.frombuffer(data, dtype)
    return values.reshape(shape[::-1]).T if by_columns else values.reshape(shape)
