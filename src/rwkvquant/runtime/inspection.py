"""What is in a file: `rwkvquant.inspect`. NumPy only; a 3 GB checkpoint is not read, only its table."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.errors import TokenizerError
from rwkvquant.formats.container import open_packed
from rwkvquant.results import CheckpointInfo, CheckpointTensor, PackedInfo
from rwkvquant.runtime.session import is_packed
from rwkvquant.runtime.tokenizer import load_tokenizer


def inspect(path: str | os.PathLike[str]) -> PackedInfo | CheckpointInfo:
    """Architecture, sizes and tensors of a packed file or a checkpoint, and the bits of a packed one. The content decides which it is.

    Raises FormatError for a damaged packed file, CheckpointError for a file that is neither. Weights are not checked: see `verify`.
    """
    return _packed(path) if is_packed(path) else _checkpoint(path)


def _packed(path: str | os.PathLike[str]) -> PackedInfo:
    packed = open_packed(Path(path))
    ledger, summary = packed.ledger(), packed.summary()
    return PackedInfo(
        file=str(packed.path),
        format_version=summary["format_version"],
        arch=packed.arch,
        dims=packed.dims,
        tokenizer=summary["tokenizer"],
        image=packed.image,
        quantization_config=packed.quantization_config,
        provenance=packed.provenance,
        decoded_layouts=tuple(packed.decoded_layouts()),
        file_bytes=ledger.file_bytes,
        bits_per_weight=ledger.bits_per_weight,
        bits_per_weight_projections=ledger.bits_per_weight_projections,
        bits_per_weight_file=ledger.bits_per_weight_file,
        ledger=tuple(ledger.rows()),
        tensors=ledger.items,
        summary=summary,
    )


def _checkpoint(path: str | os.PathLike[str]) -> CheckpointInfo:
    checkpoint = open_checkpoint(path)
    summary = checkpoint.summary() | _tokenizer(checkpoint)
    tensors = tuple(CheckpointTensor(**{**row, "shape": tuple(row["shape"])}) for row in summary["tensors"])
    fields: dict[str, Any] = {each.name: summary.get(each.name) for each in dataclasses.fields(CheckpointInfo)}
    fields |= {"dims": checkpoint.dims, "tensors": tensors, "summary": summary}
    return CheckpointInfo(**fields)


def _tokenizer(checkpoint: Checkpoint) -> dict[str, Any]:
    """Its kind, and where it was found; None and a sentence if there is none."""
    if checkpoint.architecture.modality != "text":
        return {"tokenizer": None, "tokenizer_source": "a model for images has no tokenizer"}
    try:
        tokenizer = load_tokenizer(checkpoint.tokenizer, checkpoint.dims.vocab)
    except TokenizerError as error:
        return {"tokenizer": None, "tokenizer_source": str(error)}
    return {"tokenizer": tokenizer.to_data().kind, "tokenizer_source": tokenizer.source}


def verify(path: str | os.PathLike[str]) -> int:
    """Read a packed file to the last byte -> the number of its tensors.

    Raises FormatError, which names the file and the tensor, if a checksum, a value or the table is wrong.
    """
    packed = open_packed(Path(path))
    packed.verify()
    return len(packed.tensors)
