"""Find out what a path is, and open it or say in one sentence why not."""

from __future__ import annotations

import os
from pathlib import Path

from rwkvquant.checkpoints.adapter import Adapter, Spec
from rwkvquant.checkpoints.checkpoint import Checkpoint
from rwkvquant.checkpoints.gguf_file import GgufFile
from rwkvquant.checkpoints.gguf_header import MAGIC as GGUF
from rwkvquant.checkpoints.pth import PthFile
from rwkvquant.checkpoints.safetensors_file import SafetensorsFile
from rwkvquant.checkpoints.shards import ShardedFile
from rwkvquant.checkpoints.tensor_info import TensorFile
from rwkvquant.checkpoints.translate import TranslatedFile
from rwkvquant.checkpoints.wrappers import UnwrappedFile
from rwkvquant.errors import CheckpointError
from rwkvquant.stand_in import HEAD_BYTES, stand_in

SUPPORTED = (
    "a checkpoint is a .pth that torch.save wrote (torch 1.6 or newer), a safetensors file, a GGUF file, or a Hugging Face directory"
)
# In a Hugging Face directory, safetensors before pickles; each as one file or as shards with an index.
IN_DIRECTORY = [("model.safetensors", "model.safetensors.index.json"), ("pytorch_model.bin", "pytorch_model.bin.index.json")]

MODEL_FILES = (".pth", ".pt", ".safetensors", ".st", ".gguf")  # in a directory without such a name


def open_checkpoint(path: str | os.PathLike[str], adapter: str = "") -> Checkpoint:
    """Open a checkpoint: its table of tensors is read, not its weights. Never imports torch, never runs anything that a pickle names.

    `path` is a .pth, a safetensors file, a GGUF file, an index of shards, or a directory with one of them, in any layout of names.py.
    `adapter`: "PATH", "PATH,alpha=NUMBER" or "PATH,init=PATH" of an adapter that is merged when tensors are read (adapter.py), or "".
    Raises CheckpointError for anything that is not a checkpoint of a supported architecture. The message begins with the path.
    """
    return _adapted(_open(Path(path)), adapter)


def open_text_checkpoint(path: str | os.PathLike[str], adapter: str = "") -> Checkpoint:
    """`open_checkpoint` for what works with text only. Raises CheckpointError for a model for images too."""
    checkpoint = _open(Path(path))
    if checkpoint.architecture.modality != "text":
        raise CheckpointError(f"{path}: {checkpoint.architecture.text_only()}")
    return _adapted(checkpoint, adapter)


def _adapted(checkpoint: Checkpoint, adapter: str) -> Checkpoint:
    if adapter:
        checkpoint.adapt(Adapter(Spec.parse(adapter), checkpoint.architecture, checkpoint.tensors, open_file))
    return checkpoint


def _open(path: Path) -> Checkpoint:
    try:
        main = _in_directory(path) if path.is_dir() else path
        file: TensorFile
        if kind(main) == "index":
            file = shards = ShardedFile(main, open_file)
            files = [main, *shards.parts]
        else:
            file, files = open_file(main), [main]
        tokenizer, config = (
            (file.tokenizer, file.config) if isinstance(file, GgufFile) else (None, None)
        )  # the only format with them inside
        translated = TranslatedFile(UnwrappedFile(file))
        meta = file.meta if isinstance(file, PthFile) else None  # the only format with such values
        try:
            return Checkpoint(path, translated, files, tokenizer, meta, config)
        except CheckpointError as error:
            raise CheckpointError(translated.explain(str(error))) from error
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error


def open_file(path: Path) -> TensorFile:
    """Open one file with tensors; its content decides how. Raises CheckpointError for an index too: a shard is never an index."""
    container = kind(path)
    if container == "index":
        raise CheckpointError("a shard must hold weights; this is a JSON file")
    if container == "pth":
        return PthFile(path)
    if container == "gguf":
        return GgufFile(path)
    return SafetensorsFile(path)


def kind(path: Path, supported: str = SUPPORTED) -> str:
    """The kind of file by its first bytes: "pth", "gguf", "safetensors" or "index".

    Raises CheckpointError for others, and names what it may be; `supported` is the end of that sentence.
    """
    if not path.exists():
        raise CheckpointError("there is no such file")
    if not path.is_file():  # reading a pipe would wait forever
        raise CheckpointError(f"this is not a regular file; {supported}")
    with open(path, "rb") as file:
        head = file.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return "pth"
    if head.startswith(GGUF):
        return "gguf"
    # The first byte of a header's length may be "{" too, but then zeros follow, and no text has those.
    if head[8:9] == b"{" and (head[:1] != b"{" or head[6:8] == b"\0\0"):
        return "safetensors"
    if head.lstrip().startswith(b"{"):
        return "index"
    raise CheckpointError(stand_in(head) or f"this is {_kind(head)}; {supported}")


def _in_directory(directory: Path) -> Path:
    for single, index in IN_DIRECTORY:
        there = [name for name in (single, index) if (directory / name).exists()]
        if len(there) == 2:
            raise CheckpointError(f"this directory has {single} and {index}; give the path of the one to use")
        if there:
            return directory / there[0]
    if (directory / "adapter_config.json").exists():
        raise CheckpointError(
            "this directory holds an adapter (adapter_config.json) and no model; merge it into its model first, or use quantize --adapter"
        )
    names = ", ".join(name for pair in IN_DIRECTORY for name in pair)
    files = sorted(path for path in directory.iterdir() if path.suffix in MODEL_FILES)
    listed = f": {', '.join(map(str, files[:3]))}{', ...' if len(files) > 3 else ''}" if files else ""
    raise CheckpointError(
        f"this directory has no checkpoint under a name that Hugging Face uses ({names}); give the path of a file{listed}"
    )


def _kind(head: bytes) -> str:
    if not head:
        return "an empty file"
    if head[257:262] == b"ustar":
        return "a tar file (torch before 0.1.10, or an archive to unpack first)"
    if head[:1] == b"\x80" and head[1:2] in b"\x01\x02\x03\x04\x05":
        return "a bare pickle (torch before 1.6); load it and save it again with a newer torch"
    if head[:4] in (b"ggml", b"lmgg", b"fmgg", b"tjgg"):
        return "a ggml file (rwkv.cpp)"
    return "neither a zip (.pth) nor a safetensors file"
