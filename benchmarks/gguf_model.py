"""Write a packed file in 16 bits as a GGUF, with the names, orders, precisions and metadata of llama.cpp's own converter.

    rwkvquant                                   llama.cpp
    att.x_r .. x_g, each (C,)                   time_mix_lerp_fused (6, 1, 1, C), in the order r w k v a g
    att.time_maa_w .. g, each (C,)              time_mix_lerp_fused (5, 1, 1, C), in the order w k v r g
    att.time_maa_w2.0 .. .4, each (C, Rm)       time_mix_w2 (5, C, Rm)
    att.r_k (H, N)                              time_mix_r_k (C,)
    (the first layer has no v0 v1 v2)           its a0 a1 a2 once more, never read

Matrices are (out, in) in both, LoRA factors too. As in the converter, vectors, RWKV-7's w1 and w2, and RWKV-6's LoRA factors and bonus
are float32; all else is float16. Needs `pip install gguf`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader, GGUFWriter, LlamaFileType, TokenType
from numpy.typing import NDArray

from rwkvquant.architectures import Dims
from rwkvquant.formats.container import PackedFile
from rwkvquant.runtime.tokenizer_world import load_world

GLOBAL = {"emb": "token_embd", "head": "output", "ln_out": "output_norm", "blocks.0.ln0": "token_embd_norm"}
PARTS = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
RENAMED = {
    "time_maa_x": "lerp_x",
    "time_maa_w1": "w1",
    "time_maa_k": "lerp_k",
    "time_maa_r": "lerp_r",
    "x_k": "lerp_k",
    "time_faaaa": "first",
    "time_decay": "decay",
    "time_decay_w1": "decay_w1",
    "time_decay_w2": "decay_w2",
}
FUSED = {
    "rwkv7": {"time_mix_lerp_fused": [f"att.x_{c}" for c in "rwkvag"]},
    "rwkv6": {
        "time_mix_lerp_fused": [f"att.time_maa_{c}" for c in "wkvrg"],
        "time_mix_w2": [f"att.time_maa_w2.{i}" for i in range(5)],
    },
}
FLOAT32 = re.compile(r"time_mix_(first|w1|w2|decay_w1|decay_w2|lerp_fused)\.weight$")
UNUSED = re.compile(r"blk\.0\.time_mix_v[012]\.weight$")
CONTEXT = 1 << 20  # RWKV has no limit; the converter writes this


@dataclass(frozen=True)
class Entry:
    """One tensor of the GGUF: `parts` are packed tensors of one shape, stacked into `shape`."""

    name: str
    shape: tuple[int, ...]
    parts: tuple[str, ...]

    @property
    def dtype(self) -> type[np.floating[Any]]:
        return np.float32 if len(self.shape) == 1 or FLOAT32.search(self.name) else np.float16

    def read(self, packed: PackedFile, dtype: type[np.floating[Any]]) -> NDArray[Any]:
        values = [packed.qtensor(part).decode().astype(dtype, copy=False) for part in self.parts]
        return np.ascontiguousarray(values[0] if len(values) == 1 else np.stack(values)).reshape(self.shape)


def write_gguf(path: Path, packed: PackedFile, *, float32: bool = False) -> None:
    """Tensor by tensor, with the World vocabulary. With `float32` the same values in 32 bits: llama.cpp then rounds no activations."""
    entries = list(_entries(packed))
    writer = GGUFWriter(path, packed.arch)
    _add_metadata(writer, packed.arch, packed.dims)
    writer.add_file_type(LlamaFileType.ALL_F32 if float32 else LlamaFileType.MOSTLY_F16)
    _add_vocabulary(writer, packed.dims.vocab)
    for entry in entries:
        dtype = np.dtype(np.float32 if float32 else entry.dtype)
        writer.add_tensor_info(entry.name, entry.shape, dtype, math.prod(entry.shape) * dtype.itemsize)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry in entries:
        writer.write_tensor_data(entry.read(packed, np.float32 if float32 else entry.dtype))
    writer.close()


def write_deeper(path: Path, shallow: Path, arch: str, dims: Dims) -> None:
    """A GGUF of dims.layers layers from one of two layers: the third and all later ones are copies of the second (the first differs)."""
    reader = GGUFReader(shallow)
    block = re.compile(r"blk\.1\.(.*)")
    tensors = [(tensor.name, tensor) for tensor in reader.tensors]
    tensors += [
        (f"blk.{layer}.{match[1]}", tensor)
        for layer in range(2, dims.layers)
        for tensor in reader.tensors
        if (match := block.fullmatch(tensor.name))
    ]
    writer = GGUFWriter(path, arch)
    _add_metadata(writer, arch, dims)
    writer.add_file_type(int(reader.fields["general.file_type"].contents()))
    _add_vocabulary(writer, dims.vocab)
    for name, tensor in tensors:
        writer.add_tensor_info(name, tensor.data.shape, tensor.data.dtype, tensor.data.nbytes, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, tensor in tensors:
        writer.write_tensor_data(tensor.data)
    writer.close()


def gguf_sizes(path: Path) -> dict[str, Any]:
    """Bytes of weights that one token reads (all tensors, but only one row of the embedding), the types of the projections, the file."""
    reader = GGUFReader(path)
    read, types = 0, set()
    for tensor in reader.tensors:
        if tensor.name == "token_embd.weight":
            read += int(tensor.n_bytes) // int(tensor.shape[1])
        elif not UNUSED.search(tensor.name):
            read += int(tensor.n_bytes)
        if re.search(r"(key|value|receptance|gate|output)\.weight$", tensor.name) and tensor.name.startswith("blk."):
            types.add(tensor.tensor_type.name)
    return {"weight_bytes_per_token": read, "projection_types": sorted(types), "file_bytes": path.stat().st_size}


def _entries(packed: PackedFile) -> Iterator[Entry]:
    fused = FUSED[packed.arch]
    inside = {part for parts in fused.values() for part in parts}
    for name, tensor in packed.tensors.items():
        match = re.fullmatch(r"blocks\.(\d+)\.(.*)", name)
        stem, _, kind = name.rpartition(".")
        if stem in GLOBAL:
            yield Entry(f"{GLOBAL[stem]}.{kind}", tensor.params.shape, (name,))
        elif match and match[2] not in inside:
            shape = tensor.params.shape
            flat = (math.prod(shape),) if match[2] == "att.r_k" else shape
            yield Entry(f"blk.{match[1]}.{_inside_block(match[2])}", flat, (name,))
    for layer in range(packed.dims.layers):
        for fused_name, parts in fused.items():
            names = tuple(f"blocks.{layer}.{part}" for part in parts)
            shape = packed.tensors[names[0]].params.shape
            stacked = (len(parts), *shape) if fused_name == "time_mix_w2" else (len(parts), 1, 1, math.prod(shape))
            yield Entry(f"blk.{layer}.{fused_name}.weight", stacked, names)
    if packed.arch == "rwkv7":
        for index in range(3):
            name = f"blocks.0.att.a{index}"
            yield Entry(f"blk.0.time_mix_v{index}.weight", packed.tensors[name].params.shape, (name,))


def _inside_block(name: str) -> str:
    """ "att.key.weight" -> "time_mix_key.weight", "att.w1" -> "time_mix_w1.weight", "ln1.bias" -> "attn_norm.bias"."""
    stem, _, kind = name.rpartition(".")
    if stem in PARTS:
        return f"{PARTS[stem]}.{kind}"
    mix, _, rest = name.removesuffix(".weight").partition(".")
    return f"{'time_mix' if mix == 'att' else 'channel_mix'}_{RENAMED.get(rest, rest)}.weight"


def _add_metadata(writer: GGUFWriter, arch: str, dims: Dims) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(dims.width)
    writer.add_block_count(dims.layers)
    writer.add_layer_norm_eps(1e-5)
    writer.add_wkv_head_size(dims.head_size)
    writer.add_feed_forward_length(dims.hidden)
    writer.add_head_count(0)  # required, unused
    if arch == "rwkv7":
        writer.add_decay_lora_rank(dims.ranks["Rw"])
        writer.add_iclr_lora_rank(dims.ranks["Ra"])
        writer.add_value_residual_mix_lora_rank(dims.ranks["Rv"])
        writer.add_gate_lora_rank(dims.ranks["Rg"])
    else:
        writer.add_rescale_every_n_layers(0)  # halving every six layers is for 16-bit activations, which neither side has
        writer.add_time_mix_extra_dim(dims.ranks["Rm"])
        writer.add_time_decay_extra_dim(dims.ranks["Rd"])


def _add_vocabulary(writer: GGUFWriter, size: int) -> None:
    """Tokens are written as Python writes bytes, b'...' without the quotes; llama.cpp reads this form."""
    tokens = [repr(token)[2:-1].encode() for token in load_world()[1:]]
    tokens = [b"<s>", *tokens, *(f"[PAD{i}]".encode() for i in range(1 + len(tokens), size))]
    types = [TokenType.CONTROL, *[TokenType.NORMAL] * (len(load_world()) - 1)]
    writer.add_tokenizer_model("rwkv")
    writer.add_token_list(tokens)
    writer.add_token_types([*types, *[TokenType.UNUSED] * (size - len(types))])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
