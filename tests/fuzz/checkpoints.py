"""Checkpoints (.pth and safetensors) taken apart, changed and put together again with right checksums; `use` does everything with one.

The base is a whole model of one block. It is written by hand, because torch cannot be used under sanitizers.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import ARCHITECTURES, Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.weights import checkpoint_weights
from tests.checkpoints.writers import global_, push
from tests.fuzz import json_tree, pickles, zips
from tests.fuzz.bytewise import damaged
from tests.fuzz.choices import Choices

STORAGE = {"<f2": "torch.HalfStorage", "<f4": "torch.FloatStorage"}
DTYPES = {"<f2": "F16", "<f4": "F32"}
SIZES = {"C": 32, "F": 48, "V": 20, "H": 2, "N": 16, "Rw": 8, "Ra": 8, "Rv": 8, "Rg": 8, "Rd": 8, "Rm": 4, "5*Rm": 20}
Values = dict[str, NDArray[np.floating]]


def values(arch: str, other_sizes: Mapping[str, int] | None = None) -> Values:
    """Every tensor of one block, float16 and float32 in turn."""
    rng, arrays = np.random.default_rng(0), {}
    sizes = SIZES | dict(other_sizes or {})
    for prefix, table in (("", ARCHITECTURES[arch].outside), ("blocks.0.", ARCHITECTURES[arch].table)):
        for spec in table:
            if spec.role is not Role.STATE:
                shape = tuple(size if isinstance(size, int) else sizes[size] for size in spec.shape)
                arrays[prefix + spec.name] = (rng.standard_normal(shape) / 4).astype("<f2" if len(arrays) % 2 else "<f4")
    return arrays


@dataclass
class Pth:
    """`index` is the pickle in pieces; `members` are all other files of the zip, without their folder."""

    index: list[bytes]
    members: list[tuple[str, bytes]]


def base_pth(arch: str) -> Pth:
    index, members = [b"\x80\x02", b"}"], [("byteorder", b"little")]
    for key, (name, array) in enumerate(values(arch).items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        identity = b"(" + push("storage") + global_(STORAGE[array.dtype.str]) + push(str(key)) + push("cpu") + push(array.size) + b"tQ"
        call = global_("torch._utils._rebuild_tensor_v2") + b"(" + identity + push(0) + push(array.shape) + push(strides) + b"\x89"
        index.append(push(name) + call + global_("collections.OrderedDict") + b")RtRs")
        members.append((f"data/{key}", array.tobytes()))
    return Pth(pickles.cut(b"".join([*index, b"."])), members)


def mutated_pth(parts: Pth, choices: Choices) -> bytes:
    """A .pth with some changes. Its checksums are right, unless the last step damages the file."""
    parts = Pth([*parts.index], [*parts.members])
    for _ in range(choices.one_of((0, 1, 1, 2, 3))):
        pickles.change(parts.index, choices)
    for _ in range(choices.one_of((0, 0, 0, 1))):
        change_member(parts, choices)
    members = [("archive/data.pkl", b"".join(parts.index)), *((f"archive/{name}", content) for name, content in parts.members)]
    archive = zips.stored(members, wide=choices.below(4) == 3)
    for _ in range(choices.one_of((0, 0, 0, 1, 2))):
        choices.one_of((zips.change_field, zips.change_field, zips.change_order))(archive, choices)
    file = archive.packed()
    return damaged(file, choices) if choices.below(8) == 7 else file


def change_member(parts: Pth, choices: Choices) -> None:
    at = choices.below(len(parts.members))
    name, content = parts.members[at]
    kind = choices.below(4)
    if kind == 0:
        del parts.members[at]
    elif kind == 1:
        parts.members.insert(at, (choices.one_of((name, "data.pkl", "../data/0", "data/\ud800", "")), content))
    else:
        parts.members[at] = (name, damaged(content, choices))


def base_safetensors(arch: str, other_sizes: Mapping[str, int] | None = None) -> tuple[dict, bytes]:
    """(header, data)"""
    header, data = {}, b""
    for name, array in values(arch, other_sizes).items():
        offsets = [len(data), len(data) + array.nbytes]
        header[name] = {"dtype": DTYPES[array.dtype.str], "shape": list(array.shape), "data_offsets": offsets}
        data += array.tobytes()
    return header, data


def safetensors_file(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def mutated_safetensors(parts: tuple[dict, bytes], choices: Choices) -> bytes:
    header, data = copy.deepcopy(parts[0]), parts[1]
    for _ in range(choices.one_of((0, 1, 1, 2))):
        json_tree.mutate(header, choices)
    if choices.below(4) == 3:
        data = damaged(data, choices)
    file = safetensors_file(header, data)
    return damaged(file, choices) if choices.below(8) == 7 else file


@np.errstate(all="ignore")
def use(path: Path) -> int:
    """Do all that the package does with a checkpoint -> how many of the steps were not refused. Raises every other error."""
    try:
        checkpoint = open_checkpoint(path)
    except RwkvQuantError:
        return 0
    checkpoint.summary()
    try:
        for matrix in checkpoint.logical_matrices():
            assert checkpoint.read_matrix(matrix.name).shape == matrix.shape
        weights = checkpoint_weights(checkpoint)
    except RwkvQuantError:
        return 1
    for engine in (ReferenceEngine(weights), NativeEngine(weights, 1)):
        engine.read([[0, checkpoint.dims.vocab - 1]], checkpoint.architecture.zero_state(checkpoint.dims), "last")
    return 2
