"""Random LLaMA models in Hugging Face's layout: with grouped queries, and heads whose product with their size is not the width."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}


def llama_tensors(config: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    width, hidden, size = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    rows = {"q": config["num_attention_heads"] * size, "k": config["num_key_value_heads"] * size, "v": config["num_key_value_heads"] * size}

    def matrix(out: int, into: int) -> np.ndarray:
        return (rng.standard_normal((out, into)) / into**0.5).astype(np.float32)

    def norm() -> np.ndarray:
        return (1 + 0.1 * rng.standard_normal(width)).astype(np.float32)

    tensors = {"model.embed_tokens.weight": matrix(config["vocab_size"], width), "model.norm.weight": norm()}
    for layer in range(config["num_hidden_layers"]):
        block = {f"self_attn.{name}_proj.weight": matrix(count, width) for name, count in rows.items()}
        block |= {"self_attn.o_proj.weight": matrix(width, rows["q"])}
        block |= {f"mlp.{name}_proj.weight": matrix(hidden, width) for name in ("gate", "up")}
        block |= {"mlp.down_proj.weight": matrix(width, hidden)}
        block |= {f"{name}_layernorm.weight": norm() for name in ("input", "post_attention")}
        tensors |= {f"model.layers.{layer}.{name}": values for name, values in block.items()}
    if not config["tie_word_embeddings"]:
        tensors["lm_head.weight"] = matrix(config["vocab_size"], width)
    return tensors


def write_llama(folder: Path, seed: int = 0, **changed: Any) -> Path:
    """A directory with config.json and model.safetensors. `changed`: values of the config; None leaves a key out."""
    config = {key: value for key, value in (CONFIG | changed).items() if value is not None}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(llama_tensors(CONFIG | config, seed), folder / "model.safetensors")
    return folder
