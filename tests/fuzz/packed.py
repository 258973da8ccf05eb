"""Packed files taken apart, changed and put together again with right lengths, offsets and checksums; and `use`, which does
everything with one.

The base models are small but complete. Together they have every kind of layout.
"""

from __future__ import annotations

import copy
import json
import math
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import Dims, Role, TensorSpec, architecture
from rwkvquant.bench.layouts import codebook, pairs
from rwkvquant.bench.random_model import default_side, write_model
from rwkvquant.codecs import DenseConfig, GridConfig, Packing, codec_of_layout, codecs, layout_ids
from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.header import DTYPES, LENGTH_BYTES, PREFIX, with_checksum
from rwkvquant.images import preprocessing_for
from rwkvquant.runtime.engines.image_base import forward_of
from rwkvquant.runtime.engines.image_native import NativeImageEngine
from rwkvquant.runtime.engines.image_reference import ReferenceImageEngine
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.tokenizer import from_data
from rwkvquant.runtime.weights import packed_weights
from tests.fuzz import json_tree
from tests.fuzz.bytewise import damaged
from tests.fuzz.choices import Choices
from tests.fuzz.tokenizers_json import TOKENIZERS

NESTED = (
    "model",
    "states",
    "quantization_config",
    "provenance",
    "tokenizer",
    "image",
    "tensors",
)  # metadata strings that are JSON themselves
DIMS = {
    "rwkv7": Dims(1, 32, 64, 40, 2, 16, {"Rw": 8, "Ra": 8, "Rv": 8, "Rg": 8}),
    "rwkv6": Dims(1, 32, 64, 40, 2, 16, {"Rm": 8, "Rd": 8}),
    "vrwkv": Dims(1, 32, 64, positions=4, patch=4, channels=3, classes=5),
}
PARAMETERS: dict[str, tuple[Any, ...]] = {  # where an ordinary number would rarely be right
    "group_size": (32, 64, 96, 128, 1 << 20, 0, 33, 1 << 31, -64),
    "scale_bits": (8, 16, 4, 0),
    "group_rows": (1, 2, 4, 8, 16, 48, 1 << 20, 0, 3, -16),
}
ORDINARY = {int: (0, 1, 3, 7, 8, 9, 14, 15, 31, 32, 1 << 20, -1), bool: (True, False)}
KEYS = {key: PARAMETERS.get(key, ORDINARY[kind]) for codec in codecs() for key, kind in codec.keys.items()}  # of every codec's table
CHANGED_SIZES = ("width", "hidden", "vocab", "heads", "head_size", "positions", "patch", "channels", "classes")
SIZES = (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 256, 1000)
MOST_GROWN = 1 << 17  # bytes of an array that is grown to fit


@dataclass
class Parts:
    """`header` with the JSON inside its metadata decoded; `arrays` the data by name."""

    header: dict[str, Any]
    arrays: dict[str, bytes]

    def copy(self) -> Parts:
        return Parts(json.loads(json.dumps(self.header)), dict(self.arrays))

    def tensors(self) -> list[dict[str, Any]]:
        return self.header["__metadata__"]["tensors"]["tensors"]


def base(folder: Path, arch: str) -> bytes:
    """A whole model of one block, its matrices in layouts of every kind."""

    def choose(name: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
        if spec.role not in (Role.PROJECTION, Role.LORA, Role.HEAD):
            return default_side(spec, shape)
        two = (shape[0], shape[1])
        grids = [grid.packing(two) for grid in (GridConfig(3, 64), GridConfig(8, 32, False, 16), GridConfig(5, 64, True))]
        tables = [codebook(two, 3, 2, 0), codebook(two, 4, 8, 3), codebook(two, 2, 2, 1), pairs(two, 6), DenseConfig().packing(two)]
        every = grids + tables
        return every[zlib.crc32(name.encode()) % len(every)]

    write_model(folder / f"{arch}.safetensors", arch, DIMS[arch], choose)
    return (folder / f"{arch}.safetensors").read_bytes()


def take_apart(file: bytes) -> Parts:
    stop = LENGTH_BYTES + int.from_bytes(file[:LENGTH_BYTES], "little")
    header = json.loads(file[LENGTH_BYTES:stop])
    for key in header["__metadata__"].keys() & set(NESTED):
        header["__metadata__"][key] = json.loads(header["__metadata__"][key])
    offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
    return Parts(header, {name: file[stop + begin : stop + end] for name, (begin, end) in offsets.items()})


def put_together(header: dict[str, Any], data: bytes) -> bytes:
    """A file with the right length, padding and checksum, whatever the header says."""
    metadata = header.get("__metadata__")
    if isinstance(metadata, dict):
        texts = {key: json.dumps(value) if key in NESTED else value for key, value in metadata.items()}
        header = header | {"__metadata__": texts}
    return with_header(json.dumps(header, separators=(",", ":")).encode(), data)


def with_header(text: bytes, data: bytes) -> bytes:
    text += b" " * (-(LENGTH_BYTES + len(text)) % 64)
    if text.startswith(PREFIX):
        text = with_checksum(text)
    return len(text).to_bytes(LENGTH_BYTES, "little") + text + data


def mutated(parts: Parts, choices: Choices) -> bytes:
    """A file with one to four changes. All changes before the last step leave it consistent."""
    parts = parts.copy()
    for _ in range(choices.below(3)):
        choices.one_of((change_layout, change_bytes, change_sizes, change_tokenizer))(parts, choices)
    settle(parts)
    for _ in range(choices.one_of((0, 0, 0, 1, 2))):
        json_tree.mutate(parts.header, choices)
    file = put_together(parts.header, b"".join(parts.arrays.values()))
    return damaged(file, choices) if choices.below(8) == 7 else file


def change_layout(parts: Parts, choices: Choices) -> None:
    """One tensor gets another layout, shape or parameter, and the arrays that it then must have."""
    entry = choices.one_of(parts.tensors())
    kind = choices.below(3)
    if kind == 0:
        entry["layout"] = choices.one_of(layout_ids())
    elif kind == 1:
        axis, size = choices.below(len(entry["shape"])), choices.one_of(SIZES)
        entry["shape"][axis] = size
        entry["source_shape"] = list(entry["shape"])
    for name, values in KEYS.items():
        if name not in entry or (kind == 2 and choices.below(2)):
            entry[name] = choices.one_of(values)
    refit(parts, entry, choices)


def change_sizes(parts: Parts, choices: Choices) -> None:
    """The model gets another size, and every tensor that had the old one too."""
    dims = parts.header["__metadata__"]["model"]["dims"]
    key, new = choices.one_of([key for key in CHANGED_SIZES if key in dims]), choices.one_of(SIZES)
    old, dims[key] = dims[key], new
    if key == "width" and "heads" in dims:
        dims["heads"], dims["head_size"] = choices.one_of(((1, new), (new, 1), (max(1, new // 16), 16)))
    for entry in parts.tensors():
        entry["shape"] = [new if size == old else size for size in entry["shape"]]
        entry["source_shape"] = [math.prod(entry["shape"])]
        refit(parts, entry, choices)


def refit(parts: Parts, entry: dict[str, Any], choices: Choices) -> None:
    """The tensor's arrays are cut or grown to what its layout and shape demand. If the layout does not exist, they stay."""
    try:
        values = {key: entry[key] for key in codec_of_layout(entry["layout"], stored=True).keys}
        expected = Packing(entry["layout"], tuple(entry["shape"]), values).sizes()
    except (RwkvQuantError, TypeError, KeyError):
        return
    if sum(dtype.itemsize * count for dtype, count in expected.values()) > MOST_GROWN:
        return
    names = {dtype: name for name, dtype in DTYPES.items()}
    filling = choices.one_of((b"\0", b"\x01", b"\x3c", b"\x7f", b"\xff"))
    for suffix in entry["arrays"]:
        if suffix not in expected:
            for owner in (parts.arrays, parts.header):
                owner.pop(f"{entry['name']}.{suffix}", None)
    entry["arrays"] = {suffix: entry["arrays"].get(suffix, "") for suffix in expected}
    for suffix, (dtype, count) in expected.items():
        name, size = f"{entry['name']}.{suffix}", dtype.itemsize * count
        parts.arrays[name] = parts.arrays.get(name, b"")[:size].ljust(size, filling)
        parts.header[name] = {"dtype": names[dtype], "shape": [count], "data_offsets": [0, 0]}


def change_bytes(parts: Parts, choices: Choices) -> None:
    """Other values in one array: codes, scales, tables; NaN among them."""
    name = choices.one_of(list(parts.arrays))
    content = bytearray(parts.arrays[name])
    if not content:
        return
    if choices.below(2):
        content[:] = choices.one_of((b"\0", b"\xff", b"\x7f", b"\x7e", b"\x80")) * len(content)
    for _ in range(1 + choices.below(4)):
        at = choices.below(len(content))
        content[at : at + 2] = choices.bytes(2)[: len(content) - at]
    parts.arrays[name] = bytes(content)


def change_tokenizer(parts: Parts, choices: Choices) -> None:
    """Another kind, with arrays that may or may not fit it."""
    kind = choices.one_of(("bpe", "world", "bytes", "json"))
    metadata = parts.header["__metadata__"]
    for suffix in metadata.get("tokenizer", {}).get("arrays", {}):
        for owner in (parts.arrays, parts.header):
            owner.pop(f"tokenizer.{suffix}", None)
    count = choices.one_of((1, 3, 40, 41, 1 << 24, 1 << 31))
    offsets = np.arange(min(count, 40) + 1) * choices.one_of((1, 0, 2, 1 << 20))
    words = {"table": np.concatenate([[count], offsets]), "merges": np.array([choices.one_of((0, 1, 2, 1 << 24)), 1, 2, 3, 3, 1, 3])}
    tokenizer: dict[str, Any] = {"kind": kind, "meta": {"size": 40, "special_tokens": {}, "add_prefix_space": True}, "arrays": {}}
    contents = {suffix: values.astype("<u4").tobytes() for suffix, values in words.items()}
    contents["table"] += bytes(range(33, 33 + 40))
    if kind == "json":
        contents = {"json": tokenizer_json(choices)}
    for suffix, content in contents.items():
        content = content[: len(content) - choices.one_of((0, 0, 0, 1, 8))]
        tokenizer["arrays"][suffix] = {"bytes": len(content), "crc32": ""}
        parts.arrays[f"tokenizer.{suffix}"] = content + b"\0" * (-len(content) % 64)
        parts.header[f"tokenizer.{suffix}"] = {"dtype": "U8", "shape": [len(content)], "data_offsets": [0, 0]}
    metadata["tokenizer"] = tokenizer


def tokenizer_json(choices: Choices) -> bytes:
    """A small tokenizer.json of a kind that is kept whole, with up to two changes."""
    root = copy.deepcopy(choices.one_of(TOKENIZERS))
    for _ in range(choices.below(3)):
        json_tree.mutate(root, choices)
    return json.dumps(root).encode("utf-8", "replace")


def settle(parts: Parts) -> None:
    """Lengths, offsets and checksums as the arrays now are."""
    at = 0
    for name, content in parts.arrays.items():
        entry = parts.header[name]
        entry["shape"] = [len(content) // DTYPES[entry["dtype"]].itemsize]
        entry["data_offsets"], at = [at, at + len(content)], at + len(content)
    for tensor in parts.tensors():
        tensor["arrays"] = {suffix: _crc(parts.arrays[f"{tensor['name']}.{suffix}"]) for suffix in tensor["arrays"]}
    for suffix, entry in parts.header["__metadata__"].get("tokenizer", {"arrays": {}})["arrays"].items():
        entry["crc32"] = _crc(parts.arrays[f"tokenizer.{suffix}"])


@np.errstate(all="ignore")  # scales may be anything
def use(path: Path) -> int:
    """Do all that the package does with a packed file -> how many of the steps were not refused. Raises every other error."""
    done = 0
    try:
        packed = open_packed(path)
    except RwkvQuantError:
        return done
    assert packed.ledger().file_bytes == path.stat().st_size
    packed.summary()
    done += 1
    for name, entry in packed.tensors.items():
        assert packed.qtensor(name).decode().shape == entry.shape
    steps = (read_settings, run_image_reference, run_image_native) if packed.image else (read_text, run_reference, run_native)
    for step in (packed.verify, *(partial(each, packed) for each in steps)):
        try:
            step()
            done += 1
        except RwkvQuantError:
            pass
    return done


def read_text(packed: Any) -> None:
    tokenizer = from_data(packed.tokenizer, packed.dims.vocab)
    tokenizer.decode(tokenizer.encode("%!!%"))


def read_settings(packed: Any) -> None:
    preprocessing_for(packed.image, packed.dims.patch, packed.task)


def run_image_reference(packed: Any) -> None:
    see(packed, ReferenceImageEngine(packed_weights(packed), packed.image))


def run_image_native(packed: Any) -> None:
    for activations in ("int8", "float32"):
        see(packed, NativeImageEngine(packed_weights(packed), packed.image, 1, activations))


def see(packed: Any, engine: Any) -> None:
    """Two images of two patches, and then the head."""
    side = packed.dims.patch
    features = engine.features(np.ones((2, packed.dims.channels, side, 2 * side), np.float32))
    if packed.task == "classify":
        forward_of(packed.arch).classify(engine.weights, features)


def run_reference(packed: Any) -> None:
    run(packed, ReferenceEngine(packed_weights(packed)))


def run_native(packed: Any) -> None:
    for activations in ("int8", "float32"):
        run(packed, NativeEngine(packed_weights(packed), 1, activations))


def run(packed: Any, engine: Any) -> None:
    """Two tokens, which is a step of two in the native engine."""
    state = architecture(packed.arch).zero_state(packed.dims)
    engine.read([[0, packed.dims.vocab - 1]], state, "last")


def _crc(content: bytes) -> str:
    return f"{zlib.crc32(content):08x}"
