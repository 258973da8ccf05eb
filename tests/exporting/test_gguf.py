"""GGUF files that we write: what llama.cpp's converter would have written, by the `gguf` package's own reader."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

import rwkvquant
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.exporting.layouts import export
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer import load_tokenizer
from rwkvquant.runtime.tokenizer_base import Tokenizer
from tests.checkpoints.layouts import GGUF
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint

DATA = Path(__file__).parents[1] / "data"
RANKS = {"Rw": 5, "Ra": 7, "Rv": 11, "Rg": 13, "Rm": 3, "Rd": 17}


def packed_of(tmp_path: Path, arch: str, tokenizer: TokenizerData, **options: object) -> tuple[Path, dict[str, torch.Tensor]]:
    sizes = {"layers": 2, "width": 48, "hidden": 100, "ranks": RANKS, "dtype": torch.float16}
    state_dict = random_state_dict(arch, **{**sizes, **options})
    return pack_checkpoint(write_pth(tmp_path / "source.pth", state_dict), tmp_path / "packed.safetensors", tokenizer), state_dict


BYTES = TokenizerData("bytes", {"size": 256}, {})


@pytest.mark.parametrize("arch", GGUF)
def test_a_file_holds_what_the_converter_writes(tmp_path: Path, arch: str) -> None:
    packed, state_dict = packed_of(tmp_path, arch, BYTES)
    export(str(packed), str(tmp_path / "m.gguf"), layout="gguf")
    reader, expected = gguf.GGUFReader(tmp_path / "m.gguf"), GGUF[arch](state_dict)
    written = {tensor.name: tensor for tensor in reader.tensors}
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(written[name].data, tensor.float().numpy(), err_msg=name)
        vector = tensor.ndim == 1 or name.endswith(("lerp_fused.weight", "mix_w1.weight", "mix_w2.weight", "first.weight"))
        assert written[name].tensor_type == (
            gguf.GGMLQuantizationType.F32 if vector or "decay_w" in name else gguf.GGMLQuantizationType.F16
        )
    sizes = {key.removeprefix(f"{arch}."): field.contents() for key, field in reader.fields.items() if key.startswith(arch)}
    assert (sizes["block_count"], sizes["embedding_length"], sizes["feed_forward_length"]) == (2, 48, 100)
    assert reader.fields["general.architecture"].contents() == arch and reader.fields["general.file_type"].contents() == 1


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize("arch", GGUF)
def test_an_exported_model_is_a_checkpoint_again(tmp_path: Path, arch: str, dtype: str) -> None:
    packed, _ = packed_of(tmp_path, arch, BYTES)
    export(str(packed), str(tmp_path / "m.gguf"), dtype, "gguf")
    export(str(packed), str(tmp_path / "m.pth"), dtype)
    there, back = open_checkpoint(tmp_path / "m.pth"), open_checkpoint(tmp_path / "m.gguf")
    assert back.dims == there.dims and back.tensors.keys() == there.tensors.keys()
    for name, info in back.tensors.items():
        if info.dtype == there.tensors[name].dtype:  # vectors are float32 in a GGUF
            np.testing.assert_array_equal(back.read(name), there.read(name), err_msg=name)


def tokenizers() -> dict[str, tuple[Tokenizer, int]]:
    return {"bpe": (load_tokenizer(str(DATA / "tokenizer.json"), 4096), 4096), "world": (load_tokenizer("world", 65536), 65536)}


@pytest.mark.parametrize("kind", ["bpe", "world"])
def test_a_tokenizer_goes_along_and_comes_back(tmp_path: Path, kind: str) -> None:
    tokenizer, vocab = tokenizers()[kind]
    packed, _ = packed_of(tmp_path, "rwkv7", tokenizer.to_data(), layers=1, width=16, hidden=16, vocab=vocab)
    export(str(packed), str(tmp_path / "m.gguf"), layout="gguf")
    back = rwkvquant.load(tmp_path / "m.gguf", threads=1).tokenizer
    text = 'The old man\'s "sea",\r\n\n\tnaïve 早上好 🌍 <|endoftext|> 1234'
    assert back.encode(text) == tokenizer.encode(text) and back.decode(back.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert len(fields["tokenizer.ggml.tokens"].data) == len(fields["tokenizer.ggml.token_type"].data) == vocab


def test_a_trained_model_gives_the_same_logits_from_a_gguf(tmp_path: Path) -> None:
    packed = DATA / "rwkv6-8m-gptq.safetensors"
    export(str(packed), str(tmp_path / "plain.pth"), "fp32")
    export(str(packed), str(tmp_path / "m.gguf"), "fp32", "gguf")
    tokens = [0, 7, 99, 3, 41, 7]
    plain, out = (rwkvquant.load(tmp_path / name, threads=1).forward(tokens, logits="all")[0] for name in ("plain.pth", "m.gguf"))
    np.testing.assert_array_equal(out, plain)


def test_what_llama_cpp_cannot_hold_is_refused(tmp_path: Path) -> None:
    packed, _ = packed_of(tmp_path, "rwkv7", BYTES, time_state=True)
    with pytest.raises(ConfigError, match=r"the layout gguf has no name for blocks\.0\.att\.time_state"):
        export(str(packed), str(tmp_path / "m.gguf"), layout="gguf")
    assert not (tmp_path / "m.gguf").exists()
