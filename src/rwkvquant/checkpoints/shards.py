"""A checkpoint in several files (shards), with an index that says which file holds each tensor, such as model.safetensors.index.json.

{"metadata": {...}, "weight_map": {"blocks.0.att.key.weight": "model-00001-of-00002.safetensors", ...}}
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.json_object import parse_object
from rwkvquant.checkpoints.tensor_info import TensorFile, TensorInfo
from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

MAX_INDEX_BYTES = 16 << 20


class ShardedFile:
    """Several files, read as one. `parts` are the paths of the shards, in the order of their names.

    Raises CheckpointError unless each tensor of the index is in the shard that the index gives, and each tensor of a shard is in the index.
    """

    def __init__(self, index: Path, open_one: Callable[[Path], TensorFile]) -> None:
        weight_map = read_index(index)
        self.parts = [index.parent / name for name in sorted(set(weight_map.values()))]
        shards = {}
        for part in self.parts:
            if not part.exists():
                raise CheckpointError(f"the shard {part.name}, which {index.name} names, is missing; download it too")
            try:
                shards[part.name] = open_one(part)
            except CheckpointError as error:
                raise CheckpointError(f"{part.name}: {error}") from error
        self.format = next(iter(shards.values())).format
        written_as = {file.written_as for file in shards.values()}
        self.written_as = written_as.pop() if len(written_as) == 1 else None
        self._shard_of = {name: (shard, shards[shard]) for name, shard in weight_map.items()}
        for name, shard in weight_map.items():
            if name not in shards[shard].tensors:
                raise CheckpointError(
                    f"{index.name} says that {shown(name)} is in {shard}, but it is not; the files may be from different downloads"
                )
        for shard, file in shards.items():
            for name in file.tensors:
                if weight_map.get(name) != shard:
                    raise CheckpointError(
                        f"{shard} holds {shown(name)}, but {index.name} does not say so; the files may be from different downloads"
                    )
        self.tensors: dict[str, TensorInfo] = {name: file.tensors[name] for name, (_, file) in self._shard_of.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        shard, file = self._shard_of[name]
        try:
            return file.read(name)
        except CheckpointError as error:
            raise CheckpointError(f"{shard}: {error}") from error


def read_index(index: Path) -> dict[str, str]:
    """Tensor -> file name. Raises CheckpointError for a file name that has a path: an index must not lead out of its folder."""
    if index.stat().st_size > MAX_INDEX_BYTES:
        raise CheckpointError(f"{index.name} may have at most {MAX_INDEX_BYTES >> 20} MB; got {index.stat().st_size >> 20} MB")
    weight_map = parse_object(index.read_bytes(), index.name).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f'{index.name} must have a "weight_map" from tensors to files')
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not is_plain_name(shard):
            raise CheckpointError(
                f"{index.name} may only name files in its own folder, without a path; for {shown(name)} it has {shown(str(shard))}"
            )
    return weight_map


def is_plain_name(name: str) -> bool:
    """A file's name without a path, on any system. (A link with that name is followed: the cache of huggingface_hub is made of links.)"""
    return name.isprintable() and 0 < len(name) <= 255 and not any(c in name for c in '/\\:*?"<>|') and not name.startswith(".")
