"""GGUF files taken apart, changed and put together again; `use` does everything with one. gguf_header.py describes the format.

The base is a whole model of one block with llama.cpp's names, 16 and 32 bits, block types, and a vocabulary.
"""

from __future__ import annotations

import copy
import io
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.gguf_header import ARRAY, MAGIC, NUMBERS, STRING, TYPES, BlockType, read_header
from rwkvquant.checkpoints.write_gguf import Value, write_gguf
from rwkvquant.errors import RwkvQuantError
from rwkvquant.exporting.gguf import write_model
from rwkvquant.exporting.in_layout import CheckpointSource
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.fuzz import checkpoints
from tests.fuzz.bytewise import damaged
from tests.fuzz.choices import Choices

HIDDEN = 256  # a whole block of a k-quant
TOKENS = ["<s>", *"abcdefghijklmnopq", "ab", "!"]  # as many as checkpoints.SIZES["V"]
IN_BLOCKS = {"ffn.value": "q4_K", "att.key": "q8_0", "att.output": "q4_0"}
KINDS = {kind.name: kind for kind in TYPES.values()}
LARGE = (0, 1, 2, 31, 1 << 16, 1 << 20, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, (1 << 64) - 1)
MOST_GROWN = 1 << 17
U32, U64 = struct.Struct("<I"), struct.Struct("<Q")


@dataclass
class Info:
    """A tensor as its header describes it: sizes with the last axis first, as they stand in the file; `offset` None: where its data is."""

    name: bytes
    sizes: list[int]
    type: int
    data: bytes
    offset: int | None = None


@dataclass
class Parts:
    """`entries`: (key, kind and value as bytes). `counts`: version, tensors, entries; None where they are right."""

    entries: list[tuple[bytes, bytes]]
    tensors: list[Info]
    counts: list[int | None]


@dataclass(frozen=True)
class Filled:
    """A matrix in blocks, for the writer."""

    kind: str
    data: NDArray[np.uint8]


def base(folder: Path, arch: str) -> Parts:
    (folder / f"{arch}.st").write_bytes(checkpoints.safetensors_file(*checkpoints.base_safetensors(arch, {"F": HIDDEN})))
    checkpoint, out = open_checkpoint(folder / f"{arch}.st"), io.BytesIO()
    blocks = {}
    for key, kind in IN_BLOCKS.items():
        rows, cols = checkpoint.tensors[f"blocks.0.{key}.weight"].shape
        blocks[f"blocks.0.{key}.weight"] = Filled(kind, np.frombuffer(_filled(rows * cols, KINDS[kind]), np.uint8).reshape(rows, -1))
    write_model(out, CheckpointSource(checkpoint), checkpoint.dims, load_tokenizer("bytes", 20).to_data(), "float16", blocks, "q4_K")
    data = memoryview(out.getvalue())
    header = read_header(data)
    entries: dict[str, Value] = header.entries | {
        "general.alignment": 32,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": [3] + [1] * (len(TOKENS) - 1),
        "tokenizer.ggml.merges": ["a b"],
    }
    tensors = [
        Info(name.encode(), list(info.shape[::-1]), info.type.number, bytes(data[info.begin : info.end]))
        for name, info in header.tensors.items()
    ]
    return Parts([(key.encode(), _entry(key, value)) for key, value in entries.items()], tensors, [None] * 3)


def _entry(key: str, value: Value) -> bytes:
    """Kind and value, as write_gguf writes them after the key."""
    out = io.BytesIO()
    write_gguf(out, {key: value}, {"x": (TYPES[0], (1,))}, lambda name: bytes(4))
    text, tensor = out.getvalue(), U64.pack(1) + b"x"
    start = len(MAGIC) + 4 + 8 + 8 + 8 + len(key)
    return text[start : text.rindex(tensor)]


def _filled(count: int, kind: BlockType) -> bytes:
    """Blocks whose float16 numbers are small, wherever they are in a block."""
    return bytes([0x11, 0x01] * (count // kind.block * kind.size // 2))


def put_together(parts: Parts) -> bytes:
    version, tensor_count, entry_count = (
        right if count is None else count for count, right in zip(parts.counts, (3, len(parts.tensors), len(parts.entries)), strict=True)
    )
    head = [MAGIC, struct.pack("<IQQ", version & 0xFFFFFFFF, tensor_count, entry_count)]
    head += [U64.pack(len(key)) + key + value for key, value in parts.entries]
    at, data = 0, b""
    for info in parts.tensors:
        head.append(U64.pack(len(info.name)) + info.name + U32.pack(len(info.sizes)))
        head.append(struct.pack(f"<{len(info.sizes)}QIQ", *info.sizes, info.type, at if info.offset is None else info.offset))
        data += info.data + bytes(-len(info.data) % 32)
        at = len(data)
    text = b"".join(head)
    return text + bytes(-len(text) % 32) + data


def mutated(parts: Parts, choices: Choices) -> bytes:
    """A file with some changes; unless the last step damages it, its offsets and lengths are right where no change is about them."""
    parts = copy.deepcopy(parts)
    for _ in range(choices.one_of((0, 1, 1, 2))):
        choices.one_of((change_type, change_data, change_tokenizer))(parts, choices)
    for _ in range(choices.one_of((0, 0, 1, 2))):
        choices.one_of((change_tensor, change_entry, change_count))(parts, choices)
    file = put_together(parts)
    return damaged(file, choices) if choices.below(8) == 7 else file


def change_type(parts: Parts, choices: Choices) -> None:
    """Another type, with as much data as its shape then has."""
    info, kind = choices.one_of(parts.tensors), choices.one_of(list(TYPES.values()))
    info.type = kind.number
    count = math.prod(info.sizes)
    if count % kind.block == 0 and count // kind.block * kind.size <= MOST_GROWN:
        info.data = _filled(count, kind) if kind.block > 1 else bytes(count * kind.size)


def change_data(parts: Parts, choices: Choices) -> None:
    """Other values: NaN and infinity among them."""
    info = choices.one_of(parts.tensors)
    if choices.below(2):
        info.data = choices.one_of((b"\0", b"\xff", b"\x7f", b"\x7c", b"\x80")) * len(info.data)
    else:
        info.data = damaged(info.data, choices)[: len(info.data)].ljust(len(info.data), b"\0")


def change_tokenizer(parts: Parts, choices: Choices) -> None:
    """Another kind, other tokens, and merges that may not fit them."""
    model = choices.one_of(("rwkv", "gpt2", "llama"))
    tokens = [choices.one_of((token, token, token, "", "\\x00", "\\", "a", "\ud7ff", "{" * 64)) for token in TOKENS]
    merges = [choices.one_of(("a b", "ab a", "a", "", "q  q"))]
    types = [choices.one_of((1, 1, 3, 5, -1))] * choices.one_of((len(tokens), 1, len(tokens) + 1))
    new: dict[str, Value] = {"model": model, "tokens": tokens, "token_type": types, "merges": merges}
    replaced = {f"tokenizer.ggml.{key}".encode(): _entry(f"tokenizer.ggml.{key}", value) for key, value in new.items()}
    parts.entries = [(key, replaced.get(key, value)) for key, value in parts.entries]


def change_tensor(parts: Parts, choices: Choices) -> None:
    """Something in the description of one tensor."""
    at = choices.below(len(parts.tensors))
    info, kind = parts.tensors[at], choices.below(7)
    if kind == 0:
        del parts.tensors[at]
    elif kind == 1:
        parts.tensors.insert(at, copy.deepcopy(info))
    elif kind == 2:
        info.sizes[choices.below(len(info.sizes))] = choices.one_of(LARGE)
    elif kind == 3:
        info.sizes = (info.sizes * 5)[: choices.below(6)]
    elif kind == 4:
        info.offset = choices.one_of((*LARGE, 32, 64, (1 << 64) - 32))
    elif kind == 5:
        info.type = choices.one_of((4, 5, 9, 15, 16, 24, 28, 39, 1 << 20, (1 << 32) - 1))
    else:
        layered = (b"blk.4294967296.time_mix_r_k.weight", b"blk.0." + b"x" * 300)
        info.name = choices.one_of((b"", b"\xff" * 9, b"../x", info.name[::-1], *layered))
    if not parts.tensors:
        parts.tensors.append(info)


def change_entry(parts: Parts, choices: Choices) -> None:
    """One entry gets a value of another kind, or a wrong length; or it is missing, or there twice."""
    at, kind = choices.below(len(parts.entries)), choices.below(6)
    key, value = parts.entries[at]
    number = choices.one_of(LARGE)
    if kind == 0:
        del parts.entries[at]
    elif kind == 1:
        parts.entries.insert(at, (key, value))
    elif kind == 2:
        code = choices.one_of(list(NUMBERS))
        parts.entries[at] = (key, U32.pack(code) + U64.pack(number)[: struct.calcsize(NUMBERS[code])])
    elif kind == 3:
        item, count = choices.one_of((*NUMBERS, STRING, ARRAY, 99)), choices.one_of((*LARGE, 3, 3, 3))
        parts.entries[at] = (key, struct.pack("<IIQ", ARRAY, item, count) + U64.pack(number) * choices.below(5))
    elif kind == 4:
        parts.entries[at] = (key, struct.pack("<IQ", STRING, number) + choices.bytes(choices.below(8)))
    else:
        parts.entries[at] = (key, U32.pack(choices.one_of((12, 13, 255, (1 << 32) - 1))) + U64.pack(number))
    if not parts.entries:
        parts.entries.append((key, value))


def change_count(parts: Parts, choices: Choices) -> None:
    parts.counts[choices.below(3)] = choices.one_of(LARGE)


def use(path: Path) -> int:
    """As checkpoints.use, and the vocabulary is read -> how many of the steps were not refused."""
    done = checkpoints.use(path)
    try:
        checkpoint = open_checkpoint(path)
        tokenizer = load_tokenizer(checkpoint.tokenizer, checkpoint.dims.vocab)
        tokenizer.decode(tokenizer.encode("abba!"))
    except RwkvQuantError:
        return done
    return done + 1
