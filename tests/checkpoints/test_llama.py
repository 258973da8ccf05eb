"""LLaMA checkpoints: what comes from config.json or a GGUF header, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.gguf_tokenizer import tokenizer_text
from rwkvquant.errors import CheckpointError
from tests.llama import CONFIG, llama_tensors, write_llama

GGUF_NAMES = {
    **{"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk"},
    **{"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output"},
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"},
}


def as_llama_cpp_writes(path: Path, config: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(config["hidden_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    for name, values in llama_tensors(config).items():
        heads = {"q": config["num_attention_heads"], "k": config["num_key_value_heads"]}.get(name[-13:-12] if "_proj" in name else "")
        if heads:  # convert_hf_to_gguf.py's `permute`
            values = values.reshape(heads, 2, len(values) // heads // 2, -1).swapaxes(1, 2).reshape(values.shape)
        for ours, theirs in GGUF_NAMES.items():
            name = name.replace(ours, theirs)
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_sizes_and_settings_come_from_the_config(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(write_llama(tmp_path, rope_theta=5000.0))
    assert (checkpoint.arch, checkpoint.layout) == ("llama", "hf")
    dims = checkpoint.dims
    assert (dims.layers, dims.width, dims.hidden, dims.vocab, dims.heads, dims.head_size) == (2, 64, 96, 256, 8, 16)
    assert dims.ranks == {"Q": 128, "KV": 32}
    frequencies = checkpoint.read("model.layers.1.self_attn.frequencies")
    assert np.allclose(frequencies, np.tile(5000.0 ** (-np.arange(8) / 8), 2), rtol=1e-6)
    assert checkpoint.read("model.layers.0.self_attn.score_scale").tolist() == [0.25] * 8
    assert checkpoint.read("model.norm.epsilon").tolist() == [np.float32(1e-5)]


def test_inspect_counts_only_what_is_in_the_file(tmp_path: Path) -> None:
    tensors = llama_tensors(CONFIG)
    summary = open_checkpoint(write_llama(tmp_path)).summary()
    assert summary["parameters"] == sum(values.size for values in tensors.values()) and len(summary["tensors"]) == len(tensors)


@pytest.mark.parametrize("tied", [False, True])
def test_a_gguf_file_is_the_same_model(tmp_path: Path, tied: bool) -> None:
    config = CONFIG | {"tie_word_embeddings": tied}
    ours, theirs = (
        open_checkpoint(write_llama(tmp_path / "hf", **config)),
        open_checkpoint(as_llama_cpp_writes(tmp_path / "a.gguf", config)),
    )
    assert theirs.dims == ours.dims and set(theirs.tensors) == set(ours.tensors) and (theirs.tied_head is not None) == tied
    for name in ours.tensors:
        assert np.array_equal(ours.read(name), theirs.read(name)), name


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_attention_heads": None}, "num_attention_heads of config.json must be a whole number from 1 to 4096; got None"),
        ({"num_attention_heads": 3}, r"the heads of q_proj must be 3 of an even size"),
        ({"head_dim": 15}, "head_dim of config.json must be an even number"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps of config.json must be a number above 0"),
        ({"rope_theta": -1.0}, "rope_theta of config.json must be a number above 0"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "kinds of RoPE that can be read are default, linear and llama3; .*yarn"),
        ({"hidden_act": "gelu"}, "hidden_act of config.json must be silu"),
        ({"model_type": "qwen2"}, "model_type of config.json must be llama"),
    ],
)
def test_a_config_that_the_forward_does_not_follow_is_refused(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folder = write_llama(tmp_path)
    config = {key: value for key, value in (CONFIG | changed).items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(folder)


def test_without_a_config_the_message_asks_for_it(tmp_path: Path) -> None:
    (write_llama(tmp_path) / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"put the model's config\.json next to them"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(("pre", "kinds"), [("smollm", ["Digits", "ByteLevel"]), ("gpt-2", ["ByteLevel"]), ("llama-bpe", None)])
def test_how_a_gguf_tokenizer_cuts_words_is_followed_or_it_is_left_out(pre: str, kinds: list[str] | None) -> None:
    entries = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre}
    entries |= {"tokenizer.ggml.tokens": ["a", "b", "ab"], "tokenizer.ggml.token_type": [1, 1, 1], "tokenizer.ggml.merges": ["a b"]}  # type: ignore[dict-item]
    found = tokenizer_text(entries)
    if kinds is None:
        assert found is None  # its pattern is not known here, and other ids would be silently wrong
    else:
        assert found is not None
        how = json.loads(found.text)["pre_tokenizer"]
        assert [each["type"] for each in how.get("pretokenizers", [how])] == kinds
