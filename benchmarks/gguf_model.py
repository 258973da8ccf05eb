"""GGUF files to benchmark llama.cpp: 16 bits of a packed file, a deeper model from one of two layers, sizes. Needs the gguf package."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFReader

from rwkvquant.architectures import Dims
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.checkpoints.gguf_header import TYPES, BlockType, read_header
from rwkvquant.checkpoints.write_gguf import write_gguf as write_file
from rwkvquant.exporting.gguf import write_model
from rwkvquant.exporting.in_layout import CheckpointSource, PackedSource
from rwkvquant.formats.container import PackedFile
from rwkvquant.runtime.tokenizer import Tokenizer
from rwkvquant.runtime.tokenizer_world import WorldTokenizer, load_world

# Blocks are only copied here, so their types need no decoder.
TYPES |= {int(kind): BlockType(int(kind), kind.name, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType if int(kind) not in TYPES}

UNUSED = re.compile(r"blk\.0\.time_mix_v[012]\.weight$")


def write_gguf(path: Path, packed: PackedFile, *, float32: bool = False) -> None:
    """Tensor by tensor, with the World vocabulary. With `float32` the same values in 32 bits: llama.cpp then rounds no activations."""
    with open(path, "wb") as out:
        world = WorldTokenizer(load_world()).to_data()
        write_model(out, PackedSource(packed), packed.dims, world, "float32" if float32 else "float16")


def write_checkpoint(path: Path, checkpoint: Checkpoint, tokenizer: Tokenizer) -> None:
    """In 16 bits, as llama.cpp's converter would."""
    with open(path, "wb") as out:
        write_model(out, CheckpointSource(checkpoint), checkpoint.dims, tokenizer.to_data(), "float16")


def file_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of each tensor, by name."""
    return {name: (tensor.type.name, tensor.shape) for name, tensor in read_header(memoryview(path.read_bytes())).tensors.items()}


def write_deeper(path: Path, shallow: Path, arch: str, dims: Dims) -> None:
    """A GGUF of dims.layers layers from one of two layers: the third and all later ones are copies of the second (the first differs)."""
    data = memoryview(shallow.read_bytes())
    header = read_header(data)
    sources = dict(header.tensors)
    for layer in range(2, dims.layers):
        for name, tensor in header.tensors.items():
            if match := re.fullmatch(r"blk\.1\.(.*)", name):
                sources[f"blk.{layer}.{match[1]}"] = tensor
    entries = header.entries | {f"{arch}.block_count": dims.layers}
    tensors = {name: (tensor.type, tensor.shape) for name, tensor in sources.items()}
    with open(path, "wb") as out:
        write_file(out, entries, tensors, lambda name: bytes(data[sources[name].begin : sources[name].end]))


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
