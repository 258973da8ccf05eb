"""Files that torch.save would not write: zips and pickles made by hand."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path

FLOATS_0_TO_5 = struct.pack("<6f", *range(6))


def write_zip(path: Path, data_pkl: bytes, storages: dict[str, bytes] | None = None, **extra: bytes) -> Path:
    """The zip of a checkpoint with any index. `extra`: more members in its folder."""
    members = {"data.pkl": data_pkl, "byteorder": b"little"} | extra
    members |= {f"data/{key}": value for key, value in ({"0": FLOATS_0_TO_5} if storages is None else storages).items()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, value in members.items():
            archive.writestr(f"archive/{name}", value)
    return path


def global_(name: str) -> bytes:
    module, _, attribute = name.rpartition(".")
    return b"c%s\n%s\n" % (module.encode(), attribute.encode())


def push(value: object) -> bytes:
    """Opcodes that push a string, an integer, None or a tuple of them."""
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple):
        return b"(" + b"".join(map(push, value)) + b"t"
    return pickle.dumps(value, 2)[2:-1]


def tensor_index(
    *,
    name: str = "x",
    key: str = "0",
    numel: int = 6,
    offset: object = 0,
    shape: object = (6,),
    strides: object = (1,),
    storage: str = "torch.FloatStorage",
) -> bytes:
    """The index {"x": tensor} with any numbers in it."""
    identity = b"(" + push("storage") + global_(storage) + push(key) + push("cpu") + push(numel) + b"tQ"
    call = global_("torch._utils._rebuild_tensor_v2") + b"(" + identity + push(offset) + push(shape) + push(strides) + b"\x89"
    return b"\x80\x02}" + push(name) + call + global_("collections.OrderedDict") + b")RtRs."
