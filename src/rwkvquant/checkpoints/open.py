"""The door: find out what a path is, and open it or say in one sentence why not."""

from __future__ import annotations

import os
from pathlib import Path

from rwkvquant.checkpoints.checkpoint import Checkpoint
from rwkvquant.checkpoints.pth import PthFile
from rwkvquant.errors import CheckpointError

SUPPORTED = "a checkpoint is a .pth as torch.save writes it (torch 1.6 or newer)"


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a checkpoint by reading its table of tensors, not its weights; never imports torch, never runs what a pickle names.

    Raises CheckpointError for whatever is not a checkpoint of a supported architecture, with the path in front.
    """
    path = Path(path)
    try:
        refuse_other_files(path)
        return Checkpoint(path, PthFile(path))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def refuse_other_files(path: Path) -> None:
    """Return if the file begins like a zip; otherwise raise CheckpointError and say what it seems to be."""
    if not path.exists():
        raise CheckpointError("there is no such file")
    if path.is_dir():
        raise CheckpointError(f"this is a directory; {SUPPORTED}")
    if not path.is_file():  # a pipe would wait for ever
        raise CheckpointError(f"this is not a regular file; {SUPPORTED}")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head.startswith(b"PK\x03\x04"):
        raise CheckpointError(f"this is {_kind(head, path.stat().st_size)}; {SUPPORTED}")


def _kind(head: bytes, size: int) -> str:
    if not head:
        return "an empty file"
    if head[257:262] == b"ustar":
        return "a tar file (torch before 0.1.10, or an archive to unpack first)"
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05":
        return "a bare pickle (torch before 1.6), to be loaded and saved again with a newer torch"
    if head[:4] == b"GGUF":
        return "a GGUF file"
    if head[:4] in (b"ggml", b"lmgg", b"fmgg", b"tjgg"):
        return "a ggml file (rwkv.cpp)"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size - 8:
        return "a safetensors file, which cannot be read as a checkpoint yet"
    return "not a zip, so it is no checkpoint"
