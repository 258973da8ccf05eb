"""Remove what training tools put around a checkpoint: dicts around the dict of tensors, and words in the tensors' names.

    {"state_dict": {...}}, {"module": {...}}, {"model": {...}, "optimizer": {...}}     Lightning, DeepSpeed, training scripts
    module.   _orig_mod.   _forward_module.   ...                                     DDP, torch.compile, Lightning; at any place
    base_model.model.                                                                 PEFT
    net.blocks.0. ...                                                                 the name of an attribute, before all names

An adapter (LoRA and similar) is not a checkpoint. It is refused by the names of its tensors: merged weights are needed.
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
    r"\.(lora_(?:A|B|E|embedding_A|embedding_B|magnitude_vector)|bone(?:_block)?|disha|miss(?:_block)?|hada_w[12]_[ab]|lokr_w[12](?:_[ab])?"
    r"|oft_r|ia3_l|vera_lambda_[bd])(?:\.|$)"
)


def dict_of_tensors(index: dict[Any, Any]) -> dict[Any, Any]:
    """The dict in `index`, or `index` itself, that holds a model's tensors. If there is none: `index`, which the caller then refuses.

    Raises CheckpointError if several dicts hold a model, for example the weights and their moving average.
    """
    models: dict[str, dict[Any, Any]] = {}
    level, seen = [("", index)], {id(index)}
    for _ in range(MAX_DEPTH + 1):
        models |= {path: value for path, value in level if _holds_a_model(value)}
        if "" in models:  # `index` is the dict of tensors, perhaps with other values
            return index
        inside = []
        for path, value in level:
            for key, child in value.items():
                if isinstance(child, dict) and id(child) not in seen:  # a pickle may hold one dict under many keys, or inside itself
                    seen.add(id(child))
                    inside.append((f"{path}.{key}" if path else str(key), child))
        level = inside
    if len(models) > 1:
        keys = ", ".join(shown(path) for path in sorted(models)[:4])
        raise CheckpointError(f"{len(models)} dicts in this file hold something like a model ({keys}); save only one of them")
    return next(iter(models.values()), index)


def _holds_a_model(value: dict[Any, Any]) -> bool:
    return any(isinstance(key, str) and isinstance(tensor, StoredTensor) and IN_A_BLOCK.search(key) for key, tensor in value.items())


class UnwrappedFile:
    """`file` with the words of wrappers removed from its tensors' names.

    Raises CheckpointError if two names become the same, and for an adapter.
    """

    def __init__(self, file: TensorFile) -> None:
        self._file = file
        self.format, self.written_as = file.format, file.written_as
        refuse_adapter(file.tensors)
        self._stored: dict[str, str] = {}
        for stored, name in zip(file.tensors, bare_names(file.tensors), strict=True):
            if name in self._stored:
                raise CheckpointError(f"{self._stored[name]} and {stored} are both {name} without the words of wrappers; keep one of them")
            self._stored[name] = stored
        infos = {name: file.tensors[stored] for name, stored in self._stored.items()}
        self.tensors = {name: TensorInfo(name, info.dtype, info.shape) for name, info in infos.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        return self._file.read(self._stored[name])


def bare_names(names: Iterable[str]) -> list[str]:
    """Each name without wrappers, and without a prefix that all share, if a layout's names follow the prefix."""
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
    """Raises CheckpointError if a tensor belongs to an adapter, with or without the model in the same file."""
    for name in names:
        if match := ADAPTER.search(name):
            raise CheckpointError(
                f"this file holds an adapter ({match[1]}, as in {name}), which changes another checkpoint's weights; "
                "merge it into its model first, then use the merged checkpoint, or give it to quantize with --adapter"
            )
