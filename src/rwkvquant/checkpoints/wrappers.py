"""What training tools put around a checkpoint, taken off again: dicts around the dict of tensors, and words around the tensors' names.

    {"state_dict": {...}}, {"module": {...}}, {"model": {...}, "optimizer": {...}}     Lightning, DeepSpeed, training scripts
    module.   _orig_mod.   _forward_module.   ...                                     DDP, torch.compile, Lightning; at any place
    base_model.model.                                                                 PEFT
    net.blocks.0. ...                                                                 one attribute's name before all names

An adapter (LoRA and its kin) is no checkpoint. It is refused here by name: merged weights are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.names import FAMILIES
from rwkvquant.checkpoints.tensor_info import TensorFile, TensorInfo
from rwkvquant.checkpoints.unpickler import StoredTensor, shown
from rwkvquant.errors import CheckpointError

MAX_DEPTH = 3  # dicts around the dict of tensors
MAX_PREFIX_WORDS = 4
IN_A_BLOCK = re.compile(r"(?:^|\.)(?:blocks|layers)\.[0-9]+\.")
WRAPPERS = ("module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
WRAPPER = re.compile(rf"(?<![^.])(?:{'|'.join(WRAPPERS)})\.")
PEFT = "base_model.model."
ADAPTER = re.compile(
    r"\.(lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector)|bone|disha|miss|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?"
    r"|oft_r|ia3_l|vera_lambda_[bd])(?:\.|$)"
)


def dict_of_tensors(index: dict[Any, Any]) -> dict[Any, Any]:
    """The dict in `index`, or `index` itself, that holds a model's tensors; `index` if there is none, for its reader to judge.

    Raises CheckpointError if several do, for example a model and its moving average.
    """
    found: dict[str, dict[Any, Any]] = {}
    level, seen = [("", index)], {id(index)}
    for _ in range(MAX_DEPTH + 1):
        found |= {path: value for path, value in level if _holds_a_model(value)}
        if "" in found:  # a dict of tensors, perhaps with something else beside them
            return index
        inside = []
        for path, value in level:
            for key, child in value.items():
                if isinstance(child, dict) and id(child) not in seen:  # a pickle may hold one dict under many keys, even in itself
                    seen.add(id(child))
                    inside.append((f"{path}.{key}" if path else str(key), child))
        level = inside
    if len(found) > 1:
        keys = ", ".join(shown(path) for path in sorted(found)[:4])
        raise CheckpointError(f"{len(found)} dicts in this file hold something like a model ({keys}); save the one that is meant alone")
    return next(iter(found.values()), index)


def _holds_a_model(value: dict[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(tensor, StoredTensor) and IN_A_BLOCK.search(key) for key, tensor in value.items())


class UnwrappedFile:
    """`file` with its tensors' names as the model alone has them. Raises CheckpointError if two names then are one, and for an adapter."""

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self.format, self.written_as = file.format, file.written_as
        refuse_adapter(file.tensors)
        self._stored: dict[str, str] = {}
        for stored, name in zip(file.tensors, bare_names(file.tensors), strict=True):
            if name in self._stored:
                raise CheckpointError(f"{self._stored[name]} and {stored} are one tensor, {name}, without the words of wrappers")
            self._stored[name] = stored
        infos = {name: file.tensors[stored] for name, stored in self._stored.items()}
        self.tensors = {name: TensorInfo(name, info.dtype, info.shape) for name, info in infos.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        return self._file.read(self._stored[name])


def bare_names(names: Iterable[str]) -> list[str]:
    """Each name without wrappers, and without a prefix that all share, if the names of a layout stand after it."""
    bare = [WRAPPER.sub("", name) for name in names]
    bare = [name.removeprefix(PEFT) for name in bare]
    if any(_is_of_a_family(name) for name in bare):
        return bare
    words = next(iter(bare), "").split(".")
    for count in range(1, min(len(words), MAX_PREFIX_WORDS + 1)):
        prefix = ".".join(words[:count]) + "."
        shorter = [name.removeprefix(prefix) for name in bare if name.startswith(prefix)]
        if len(shorter) < len(bare):
            break
        if any(_is_of_a_family(name) for name in shorter):
            return shorter
    return bare


def _is_of_a_family(name: str) -> bool:
    return any(re.match(pattern, name) for pattern in FAMILIES.values())


def refuse_adapter(names: Iterable[str]) -> None:
    """Raises CheckpointError if some tensor is an adapter's, whether its model lies in the file too or not."""
    for name in names:
        if found := ADAPTER.search(name):
            raise CheckpointError(
                f"this file holds an adapter ({found[1]}, as in {name}), which changes another checkpoint's weights; "
                "merge it into its model first, then use the merged checkpoint"
            )
