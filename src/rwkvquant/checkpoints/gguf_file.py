"""A GGUF file of llama.cpp with an RWKV-6, RWKV-7 or LLaMA model. names.py has the names; what only the header can tell is done here:

    head size                   time_mix_r_k (C,) becomes (H, N)
    rescale_every_n_layers      RWKV-6: llama.cpp's converter divides what writes the residual stream by 2^(layer / n), for 16-bit sums
    the first layer's v0 v1 v2  llama.cpp wants some, and the converter copies a0 a1 a2: left out
    token_embd_norm             is a tensor of the first block here, as in all other layouts
    heads of LLaMA              in attn_q and attn_k, the two channels that RoPE turns together are next to each other; here N/2 apart
    a head that is missing      is the embedding, in files of LLaMA

float32, float16 and bfloat16 are read by NumPy alone; block types need the `gguf` package (gguf_blocks.py).
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints.gguf_blocks import decode_blocks
from rwkvquant.checkpoints.gguf_header import GgufTensor, read_header
from rwkvquant.checkpoints.gguf_table import GGUF_TABLES
from rwkvquant.checkpoints.gguf_tokenizer import tokenizer_text
from rwkvquant.checkpoints.tensor_info import TensorInfo
from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.checkpoints.values import DTYPES, as_float32, require_whole
from rwkvquant.errors import CheckpointError

BY_HEADS = re.compile(r"blk\.\d+\.time_mix_r_k\.weight")
ROTARY = re.compile(r"blk\.\d+\.attn_([qk])\.weight")
RESCALED = re.compile(r"blk\.(\d{1,5})\.(time_mix_output|channel_mix_value)\.weight")


class GgufFile:
    """A mapped file. Raises CheckpointError for a header that breaks a rule, and for other architectures.

    `tokenizer`: the vocabulary as text that runtime/tokenizer.py reads, or None. `config`: the settings of a LLaMA by the keys of
    Hugging Face's config.json, or None.
    """

    format = "gguf"
    written_as: str | None = "gguf"

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            self._mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self._bytes = memoryview(self._mapping)
        header = read_header(self._bytes)
        arch = header.entries.get("general.architecture")
        table = GGUF_TABLES.get(arch) if isinstance(arch, str) else None
        if table is None:
            raise CheckpointError(f"a GGUF file can be read if its architecture is {' or '.join(GGUF_TABLES)}; got {shown(str(arch))}")
        self.config = _config(header.entries, f"{arch}.", header.tensors) if table.rotary else None
        self._head_size = 0 if table.rotary else _whole(header.entries, f"{arch}.wkv.head_size", at_least=1)
        self._rescale_every = _whole(header.entries, f"{arch}.rescale_every_n_layers", at_least=0) if table.rescales else 0
        self.tokenizer = tokenizer_text(header.entries)
        self._stored: dict[str, GgufTensor] = {}
        unused = {table.copy_of(name) for name in header.tensors}
        for name, tensor in header.tensors.items():
            if name not in unused:
                self._stored["blk.0." + name if name.startswith("token_embd_norm.") else name] = tensor
        self.tensors = {name: TensorInfo(name, tensor.type.name, self._shape(name, tensor)) for name, tensor in self._stored.items()}

    def read(self, name: str) -> NDArray[np.float32]:
        """The tensor as a new array. Raises CheckpointError if it holds NaN or infinity; there are no checksums."""
        require_whole(self._mapping)
        tensor, info = self._stored[name], self.tensors[name]
        if info.dtype in DTYPES:
            stored: NDArray[Any] = np.ndarray(tensor.shape, DTYPES[info.dtype][0], buffer=self._bytes, offset=tensor.begin)
            values = as_float32(name, stored, info.dtype)
        else:
            row_bytes = tensor.shape[-1] // tensor.type.block * tensor.type.size
            blocks = np.frombuffer(self._bytes[tensor.begin : tensor.end], np.uint8).reshape(-1, row_bytes)
            values = as_float32(name, decode_blocks(tensor.type, blocks), "float32")
        if self.config and (match := ROTARY.fullmatch(name)):
            values = _halves_apart(name, values, self.config["num_attention_heads" if match[1] == "q" else "num_key_value_heads"])
        if self._rescale_every and (match := RESCALED.fullmatch(name)):
            values *= np.float32(2.0 ** (int(match[1]) // self._rescale_every))
        return values.reshape(info.shape)

    def _shape(self, name: str, tensor: GgufTensor) -> tuple[int, ...]:
        if not BY_HEADS.fullmatch(name):
            return tensor.shape
        if len(tensor.shape) != 1 or tensor.shape[0] % self._head_size:
            raise CheckpointError(f"{name} has one number for each channel of heads of {self._head_size}; got the shape {tensor.shape}")
        return (tensor.shape[0] // self._head_size, self._head_size)


def _config(entries: dict[str, Any], prefix: str, tensors: Mapping[str, GgufTensor]) -> dict[str, Any]:
    """The header's settings. settings.py checks their values, except the heads, which are needed here."""
    heads = _whole(entries, f"{prefix}attention.head_count", at_least=1)
    kv_key = f"{prefix}attention.head_count_kv"
    config: dict[str, Any] = {
        "num_attention_heads": heads,
        "num_key_value_heads": _whole(entries, kv_key, at_least=1) if kv_key in entries else heads,
        "hidden_size": _whole(entries, f"{prefix}embedding_length", at_least=1),
        "tie_word_embeddings": "output.weight" not in tensors,
    }
    optional = {
        "head_dim": "attention.key_length",
        "rms_norm_eps": "attention.layer_norm_rms_epsilon",
        "rope_theta": "rope.freq_base",
    }
    config |= {ours: entries[prefix + key] for ours, key in optional.items() if prefix + key in entries}
    kind = entries.get(f"{prefix}rope.scaling.type", "none")
    if kind != "none":
        config["rope_scaling"] = {"rope_type": kind, "factor": entries.get(f"{prefix}rope.scaling.factor", 1.0)}
    return config


def _halves_apart(name: str, values: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Rows 0 1 2 3 ... of each head become 0 2 4 ... 1 3 5 ..., as in Hugging Face's files."""
    if len(values) % (2 * heads):
        raise CheckpointError(f"{name} has rows for {heads} heads of an even size; got the shape {values.shape}")
    return np.ascontiguousarray(values.reshape(heads, -1, 2, values.shape[-1]).swapaxes(1, 2)).reshape(values.shape)


def _whole(entries: dict[str, Any], key: str, at_least: int) -> int:
    value = entries.get(key, 0)
    if type(value) is not int or not at_least <= value < 1 << 31:
        raise CheckpointError(f"{key} of a GGUF file is a whole number of at least {at_least}; got {shown(str(value))}")
    return value
