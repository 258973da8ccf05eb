"""A model as a GGUF file for llama.cpp: the names, orders, types and entries of llama.cpp's own converter.

Matrices are float16, or whatever `blocks` holds; vectors and what llama.cpp reads as float32 only are float32. The first layer of RWKV-7
gets v0 v1 v2, copies of a0 a1 a2, since llama.cpp wants some there. RWKV has no longest context; the converter writes CONTEXT.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Dims
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.checkpoints.gguf_header import TYPES, BlockType
from rwkvquant.checkpoints.gguf_table import GGUF_TABLES
from rwkvquant.checkpoints.gguf_tokenizer import CONTROL, NORMAL, UNUSED, escaped
from rwkvquant.checkpoints.names import name_table
from rwkvquant.checkpoints.values import as_stored
from rwkvquant.checkpoints.write_gguf import Value, write_gguf
from rwkvquant.errors import CheckpointError, ConfigError
from rwkvquant.exporting.in_layout import CheckpointSource, InLayout, Source
from rwkvquant.formats.disk import atomic_write
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer_json import byte_characters
from rwkvquant.runtime.tokenizer_table import unpack_table

FLOAT32 = re.compile(r"time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight$")
CONTEXT = 1 << 20
FILE_TYPES = {"float32": 0, "float16": 1, "q4_0": 2, "q8_0": 7, "q3_K": 11, "q4_K": 14, "bfloat16": 32}  # llama.h: general.file_type
KINDS = {kind.name: kind for kind in TYPES.values()}


class Blocks(Protocol):
    """A matrix in GGUF's blocks: `kind`, the name of a block type, and `data` uint8 (rows, bytes of a row)."""

    @property
    def kind(self) -> str: ...
    @property
    def data(self) -> NDArray[Any]: ...


def write_model(
    out: BinaryIO,
    source: Source,
    dims: Dims,
    tokenizer: TokenizerData,
    dtype: str = "float16",
    blocks: Mapping[str, Blocks] | None = None,
    file_type: str | None = None,
) -> int:
    """-> number of tensors. `blocks`: matrices by our names, in place of the source's; `file_type`: a key of FILE_TYPES.

    Raises ConfigError for a tensor or a tokenizer that llama.cpp has no place for, and for values beyond the dtype's range.
    """
    arch, blocks = source.architecture.name, blocks or {}
    table = name_table("gguf", source.architecture)
    if table is None:
        raise ConfigError(f"llama.cpp has no layout that we can write for {source.architecture.title}")
    stored = InLayout(source, table)
    in_blocks = {table.stored_name(source.architecture, name): matrix for name, matrix in blocks.items()}
    tensors: dict[str, tuple[BlockType, tuple[int, ...]]] = {}
    names: dict[str, str] = {}  # the file's name -> the name in `stored`
    for name, shape in stored.shapes.items():
        kind = KINDS[in_blocks[name].kind if name in in_blocks else _dtype(name, shape, dtype)]
        file_name = name.removeprefix("blk.0.") if "token_embd_norm" in name else name
        tensors[file_name], names[file_name] = (kind, shape), name
        if (copy := GGUF_TABLES[arch].copy_of(name)) is not None:
            tensors[copy], names[copy] = (kind, shape), name

    def data(file_name: str) -> bytes:
        name, kind = names[file_name], tensors[file_name][0]
        if name in in_blocks:
            return in_blocks[name].data.tobytes()
        try:
            return as_stored(name, stored.values(name), kind.name).tobytes()
        except CheckpointError:
            raise ConfigError(f"{name} has values outside the range of {kind.name}; try --dtype fp32") from None

    entries: dict[str, Value] = {"general.architecture": arch, "general.file_type": FILE_TYPES[file_type or dtype]}
    if blocks:
        entries["general.quantization_version"] = 2
    entries |= _sizes(arch, dims) | _tokenizer(tokenizer, arch, dims.vocab)
    write_gguf(out, entries, tensors, data)
    return len(tensors)


def export_blocks(
    checkpoint: Checkpoint, output: str, tokenizer: TokenizerData, blocks: Mapping[str, Blocks], file_type: str
) -> dict[str, Any]:
    """Write a checkpoint with these matrices in blocks, all others float16 -> what `export` prints. Raises as `write_model` does."""
    path = Path(output)
    with atomic_write(path) as out:
        count = write_model(out, CheckpointSource(checkpoint), checkpoint.dims, tokenizer, "float16", blocks, file_type)
    return {"output": output, "layout": "gguf", "gguf_type": file_type, "tensors": count, "file_bytes": path.stat().st_size}


def _dtype(name: str, shape: tuple[int, ...], dtype: str) -> str:
    return "float32" if len(shape) == 1 or FLOAT32.search(name) else dtype


def _sizes(arch: str, dims: Dims) -> dict[str, Value]:
    common: dict[str, Value] = {
        "context_length": CONTEXT,
        "embedding_length": dims.width,
        "block_count": dims.layers,
        "attention.layer_norm_epsilon": 1e-5,
        "wkv.head_size": dims.head_size,
        "feed_forward_length": dims.hidden,
        "attention.head_count": 0,  # llama.cpp wants it, and does not use it
    }
    table = GGUF_TABLES[arch]
    ranks = {key: next(dims.ranks[symbol] for symbol in symbols if symbol in dims.ranks) for key, symbols in table.ranks.items()}
    return {f"{arch}.{key}": value for key, value in (common | ranks | dict(table.constants)).items()}


def check_tokenizer(data: TokenizerData) -> None:
    """Raises ConfigError for a tokenizer that llama.cpp has no place for."""
    if data.kind not in ("world", "bpe", "bytes"):
        raise ConfigError(
            f"llama.cpp reads the World tokenizer and plain byte-level BPE; this model's tokenizer is of the kind {data.kind}"
        )
    if data.meta.get("add_prefix_space"):
        raise ConfigError("llama.cpp has no byte-level BPE that begins a text with a space, as this model's tokenizer does")


def _tokenizer(data: TokenizerData, arch: str, vocab: int) -> dict[str, Value]:
    if data.kind == "bytes":  # llama.cpp has no such tokenizer; its programs then take ids
        return {"tokenizer.ggml.model": "none", f"{arch}.vocab_size": vocab}
    check_tokenizer(data)
    table = unpack_table(data.arrays["table"])
    own = _world(table) if data.kind == "world" else _bpe(table, data)
    padding = [f"[PAD{i}]" for i in range(len(own.texts), vocab)]
    types = own.types + [UNUSED] * len(padding)
    ids: dict[str, Value] = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 0}
    return own.entries | {"tokenizer.ggml.tokens": own.texts + padding, "tokenizer.ggml.token_type": types} | ids


@dataclass(frozen=True)
class _Vocabulary:
    texts: list[str]
    types: list[int]
    entries: dict[str, Value]


def _world(table: list[bytes]) -> _Vocabulary:
    texts = ["<s>", *(escaped(token) if token else f"[PAD{i}]" for i, token in enumerate(table[1:], 1))]
    types = [CONTROL, *(NORMAL if token else UNUSED for token in table[1:])]
    return _Vocabulary(texts, types, {"tokenizer.ggml.model": "rwkv"})


def _bpe(table: list[bytes], data: TokenizerData) -> _Vocabulary:
    """Special tokens are control tokens; ids without bytes are padding. GPT-2's pattern cuts words, as the `tokenizers` package's does."""
    letters = byte_characters()
    special = {i: content for content, i in data.meta.get("special_tokens", {}).items()}
    texts = ["".join(letters[byte] for byte in token) or special.get(i, f"[PAD{i}]") for i, token in enumerate(table)]
    types = [NORMAL if token else CONTROL if i in special else UNUSED for i, token in enumerate(table)]
    merges = np.frombuffer(data.arrays["merges"].tobytes(), "<u4")[1:].reshape(-1, 3)
    pairs = [f"{texts[left]} {texts[right]}" for left, right, _ in merges.tolist()]
    entries: dict[str, Value] = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.merges": pairs}
    return _Vocabulary(texts, types, entries)
