"""config.json of a Hugging Face directory. Each family of modelling code has its own names for the sizes."""

from __future__ import annotations

from typing import Any

from rwkvquant.architectures import Dims

NORM_EPS = 1e-5


def hf_config(arch: str, dims: Dims, layout: str, dtype: str) -> dict[str, Any]:
    """The content of config.json. `layout`: "hf" (RWKV's own classes) or "fla". `dtype`: of the weights in the same directory."""
    written = {
        "model_type": arch,
        "architectures": [f"{arch.upper()}ForCausalLM" if layout == "fla" else f"{arch.capitalize()}ForCausalLM"],
        "vocab_size": dims.vocab,
        "hidden_size": dims.width,
        "intermediate_size": dims.hidden,
        "num_hidden_layers": dims.layers,
        "torch_dtype": dtype,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "use_cache": True,
    }
    return written | {
        ("hf", "rwkv7"): _hf_rwkv7,
        ("hf", "rwkv6"): _hf_rwkv6,
        ("fla", "rwkv7"): _fla_rwkv7,
        ("fla", "rwkv6"): _fla_rwkv6,
    }[layout, arch](dims)


def _hf_rwkv7(dims: Dims) -> dict[str, Any]:
    return {
        "attention_hidden_size": dims.width,
        "head_dim": dims.head_size,
        "layer_norm_epsilon": NORM_EPS,
        "decay_low_rank_dim": dims.ranks["Rw"],
        "a_low_rank_dim": dims.ranks["Ra"],
        "gate_low_rank_dim": dims.ranks["Rg"],
        "value_low_rank_dim": dims.ranks.get("Rv", 32),  # a model of one layer has no such rank
    }


def _hf_rwkv6(dims: Dims) -> dict[str, Any]:
    return {
        "attention_hidden_size": dims.width,
        "head_size": dims.head_size,
        "head_size_divisor": 8,
        "layer_norm_epsilon": NORM_EPS,
        "rescale_every": 6,
    }


def _fla(dims: Dims) -> dict[str, Any]:
    return {
        "attn": None,
        "attn_mode": "chunk",
        "hidden_act": "sqrelu",
        "hidden_ratio": dims.hidden / dims.width,
        "norm_bias": True,
        "norm_eps": NORM_EPS,
        "norm_first": True,
    }


def _fla_rwkv7(dims: Dims) -> dict[str, Any]:
    return {
        **_fla(dims),
        "head_dim": dims.head_size,
        "decay_low_rank_dim": dims.ranks["Rw"],
        "a_low_rank_dim": dims.ranks["Ra"],
        "gate_low_rank_dim": dims.ranks["Rg"],
        "v_low_rank_dim": dims.ranks.get("Rv", 32),
        "value_dim": [dims.width] * dims.layers,
    }


def _fla_rwkv6(dims: Dims) -> dict[str, Any]:
    return {
        **_fla(dims),
        "expand_k": 1.0,
        "expand_v": 1.0,
        "num_heads": dims.heads,
        "proj_low_rank_dim": dims.ranks["Rm"],
        "gate_low_rank_dim": dims.ranks["Rd"],
    }
