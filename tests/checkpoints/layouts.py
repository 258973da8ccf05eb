"""A checkpoint as other projects write it: each function from the layout's own description, without our name tables.

All take BlinkDL's tensors and return those of the layout. Linear layers of fla are (out, in), so its LoRA factors are transposed.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


def layers_of(tensors: Tensors) -> range:
    return range(1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks.")))


def prefixed(prefix: str) -> Callable[[Tensors], Tensors]:
    """The body of the model is an attribute of the class with the head, as in transformers."""
    return lambda tensors: {name if name == "head.weight" else prefix + name: tensor for name, tensor in tensors.items()}


def hf_rwkv7(tensors: Tensors) -> Tensors:
    """As prefixed "model.", with flat vectors and without the first layer's v."""
    kept = {name: tensor for name, tensor in tensors.items() if name not in [f"blocks.0.att.v{i}" for i in range(3)]}
    return prefixed("model.")({name: t.flatten() if t.shape[:2] == (1, 1) else t for name, t in kept.items()})


def web_rwkv(tensors: Tensors) -> Tensors:
    """Lower case, fp16, two words renamed, and the last two axes of whatever has one of these names swapped."""
    swapped = ["time_mix_w1", "time_mix_w2", "time_decay_w1", "time_decay_w2", "w1", "w2", "a1", "a2", "g1", "g2", "v1", "v2", "time_state"]
    result = {}
    for name, tensor in tensors.items():
        name = name.replace("time_faaaa", "time_first").replace("time_maa", "time_mix").lower()
        result[name] = (tensor.transpose(-2, -1) if name.split(".")[-1] in swapped else tensor).half().contiguous()
    return result


def _fla_outside(tensors: Tensors) -> Tensors:
    return {
        "model.embeddings.weight": tensors["emb.weight"],
        "model.norm.weight": tensors["ln_out.weight"],
        "model.norm.bias": tensors["ln_out.bias"],
        "lm_head.weight": tensors["head.weight"],
        "model.layers.0.pre_norm.weight": tensors["blocks.0.ln0.weight"],
        "model.layers.0.pre_norm.bias": tensors["blocks.0.ln0.bias"],
    }


def _fla_norms(tensors: Tensors, layer: int) -> Tensors:
    ours, theirs = f"blocks.{layer}.", f"model.layers.{layer}."
    names = {"ln1": "attn_norm", "ln2": "ffn_norm", "att.ln_x": "attn.g_norm"}
    return {f"{theirs}{b}.{part}": tensors[f"{ours}{a}.{part}"] for a, b in names.items() for part in ("weight", "bias")}


def fla_rwkv7(tensors: Tensors) -> Tensors:
    result = _fla_outside(tensors)
    for layer in layers_of(tensors):
        att, ffn, attn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn.", f"model.layers.{layer}.attn."
        result |= _fla_norms(tensors, layer)
        for c in "rwkvag":
            result[f"{attn}x_{c}"] = tensors[f"{att}x_{c}"]
        for c in "wavg" if layer else "wag":
            result[f"{attn}{c}_lora.lora.0.weight"] = tensors[f"{att}{c}1"].t()
            result[f"{attn}{c}_lora.lora.2.weight"] = tensors[f"{att}{c}2"].t()
            if c != "g":
                result[f"{attn}{c}_lora.lora.2.bias"] = tensors[f"{att}{c}0"].squeeze()
        result[f"{attn}k_k"], result[f"{attn}k_a"] = tensors[f"{att}k_k"].squeeze(), tensors[f"{att}k_a"].squeeze()
        result[f"{attn}r_k"] = tensors[f"{att}r_k"]
        result[f"{attn}r_proj.weight"] = tensors[f"{att}receptance.weight"]
        result[f"{attn}k_proj.weight"] = tensors[f"{att}key.weight"]
        result[f"{attn}v_proj.weight"] = tensors[f"{att}value.weight"]
        result[f"{attn}o_proj.weight"] = tensors[f"{att}output.weight"]
        result[f"model.layers.{layer}.ffn.x_k"] = tensors[f"{ffn}x_k"].squeeze()
        result[f"model.layers.{layer}.ffn.key.weight"] = tensors[f"{ffn}key.weight"]
        result[f"model.layers.{layer}.ffn.value.weight"] = tensors[f"{ffn}value.weight"]
    return result


def fla_rwkv7_of_2024(tensors: Tensors) -> Tensors:
    """The six mixes of a layer in one array x_x, (6, 1, 1, C)."""
    result = fla_rwkv7(tensors)
    for layer in layers_of(tensors):
        attn = f"model.layers.{layer}.attn."
        result[f"{attn}x_x"] = torch.stack([result.pop(f"{attn}x_{c}") for c in "rwkvag"])
    return result


def fla_rwkv6(tensors: Tensors) -> Tensors:
    """fla's forward views x_proj.0's output as (5, rank) and x_proj.2.weight as (C, 5, rank), for r, w, k, v, g in this order."""
    result = _fla_outside(tensors)
    for layer in layers_of(tensors):
        att, ffn, attn = f"blocks.{layer}.att.", f"blocks.{layer}.ffn.", f"model.layers.{layer}.attn."
        result |= _fla_norms(tensors, layer)
        w, k, v, r, g = tensors[f"{att}time_maa_w1"].chunk(5, dim=1)  # BlinkDL's order
        result[f"{attn}x_proj.0.linear.weight"] = torch.cat([r, w, k, v, g], dim=1).t()
        w, k, v, r, g = tensors[f"{att}time_maa_w2"]
        result[f"{attn}x_proj.2.weight"] = torch.cat([r, w, k, v, g]).t()
        result[f"{attn}x_proj.0.mu"] = tensors[f"{att}time_maa_x"].squeeze()
        result[f"{attn}x_bias"] = torch.stack([tensors[f"{att}time_maa_{c}"].squeeze() for c in "rwkvg"])
        result[f"{attn}w_proj.linear.lora.0.weight"] = tensors[f"{att}time_decay_w1"].t()
        result[f"{attn}w_proj.linear.lora.2.weight"] = tensors[f"{att}time_decay_w2"].t()
        result[f"{attn}w_proj.linear.lora.2.bias"] = tensors[f"{att}time_decay"].squeeze()
        result[f"{attn}bonus"] = tensors[f"{att}time_faaaa"]
        for ours, theirs in {"receptance": "r", "key": "k", "value": "v", "gate": "g"}.items():
            result[f"{attn}{theirs}_proj.linear.weight"] = tensors[f"{att}{ours}.weight"]
        result[f"{attn}o_proj.weight"] = tensors[f"{att}output.weight"]
        for ours in ("key", "receptance"):
            result[f"model.layers.{layer}.ffn.{ours}.linear.weight"] = tensors[f"{ffn}{ours}.weight"]
            result[f"model.layers.{layer}.ffn.{ours}.mu"] = tensors[f"{ffn}time_maa_{ours[0]}"].squeeze()
        result[f"model.layers.{layer}.ffn.value.weight"] = tensors[f"{ffn}value.weight"]
    return result


def hf_rwkv6(tensors: Tensors) -> Tensors:
    """What RWKV's own repositories of RWKV-6 hold, mostly as pytorch_model.bin."""
    words = {"emb.weight": "embeddings.weight", ".att.": ".attention.", ".ffn.": ".feed_forward.", ".ln0.": ".pre_ln."}
    result = {}
    for name, tensor in tensors.items():
        renamed = name
        for ours, theirs in words.items():
            renamed = renamed.replace(ours, theirs)
        result[name if name == "head.weight" else f"rwkv.{renamed}"] = tensor
    return result


def _gguf_outside(tensors: Tensors) -> Tensors:
    names = {"emb": "token_embd", "head": "output", "ln_out": "output_norm", "blocks.0.ln0": "token_embd_norm"}
    return {
        f"{theirs}.{part}": tensors[f"{ours}.{part}"]
        for ours, theirs in names.items()
        for part in ("weight", "bias")
        if f"{ours}.{part}" in tensors
    }


def _gguf_norms(tensors: Tensors, layer: int) -> Tensors:
    names = {"ln1": "attn_norm", "ln2": "attn_norm_2", "att.ln_x": "time_mix_ln"}
    return {f"blk.{layer}.{b}.{part}": tensors[f"blocks.{layer}.{a}.{part}"] for a, b in names.items() for part in ("weight", "bias")}


def gguf_rwkv7(tensors: Tensors) -> Tensors:
    """llama.cpp's converter: LoRA factors (out, in), six mixes in one array, and a first layer whose v0 v1 v2 are its a0 a1 a2."""
    result = _gguf_outside(tensors)
    for layer in layers_of(tensors):
        att, ffn, mix, channel = f"blocks.{layer}.att.", f"blocks.{layer}.ffn.", f"blk.{layer}.time_mix_", f"blk.{layer}.channel_mix_"
        result |= _gguf_norms(tensors, layer)
        result[f"{mix}lerp_fused.weight"] = torch.stack([tensors[f"{att}x_{c}"] for c in "rwkvag"])
        for c in "wavg":
            source = f"{att}a" if c == "v" and layer == 0 else f"{att}{c}"
            if c != "g":
                result[f"{mix}{c}0.weight"] = tensors[f"{source}0"].squeeze()
            for i in "12":
                result[f"{mix}{c}{i}.weight"] = tensors[f"{source}{i}"].t()
        for name in ("k_k", "k_a"):
            result[f"{mix}{name}.weight"] = tensors[f"{att}{name}"].squeeze()
        result[f"{mix}r_k.weight"] = tensors[f"{att}r_k"].flatten()
        for name in ("receptance", "key", "value", "output"):
            result[f"{mix}{name}.weight"] = tensors[f"{att}{name}.weight"]
        result[f"{channel}lerp_k.weight"] = tensors[f"{ffn}x_k"].squeeze()
        for name in ("key", "value"):
            result[f"{channel}{name}.weight"] = tensors[f"{ffn}{name}.weight"]
    return result


def gguf_rwkv6(tensors: Tensors) -> Tensors:
    """llama.cpp's converter: the five mixes in BlinkDL's order."""
    result = _gguf_outside(tensors)
    for layer in layers_of(tensors):
        att, ffn, mix, channel = f"blocks.{layer}.att.", f"blocks.{layer}.ffn.", f"blk.{layer}.time_mix_", f"blk.{layer}.channel_mix_"
        result |= _gguf_norms(tensors, layer)
        result[f"{mix}lerp_x.weight"] = tensors[f"{att}time_maa_x"].squeeze()
        result[f"{mix}lerp_fused.weight"] = torch.stack([tensors[f"{att}time_maa_{c}"].reshape(1, 1, -1) for c in "wkvrg"])
        result[f"{mix}w1.weight"] = tensors[f"{att}time_maa_w1"].t()
        result[f"{mix}w2.weight"] = tensors[f"{att}time_maa_w2"].permute(0, 2, 1)
        result[f"{mix}decay.weight"] = tensors[f"{att}time_decay"].squeeze()
        for i in "12":
            result[f"{mix}decay_w{i}.weight"] = tensors[f"{att}time_decay_w{i}"].t()
        result[f"{mix}first.weight"] = tensors[f"{att}time_faaaa"]
        for name in ("receptance", "key", "value", "output", "gate"):
            result[f"{mix}{name}.weight"] = tensors[f"{att}{name}.weight"]
        for c in "kr":
            result[f"{channel}lerp_{c}.weight"] = tensors[f"{ffn}time_maa_{c}"].squeeze()
        for name in ("key", "receptance", "value"):
            result[f"{channel}{name}.weight"] = tensors[f"{ffn}{name}.weight"]
    return result


GGUF = {"rwkv7": gguf_rwkv7, "rwkv6": gguf_rwkv6}

LAYOUTS: dict[str, dict[str, Callable[[Tensors], Tensors]]] = {
    "rwkv7": {
        "blinkdl": dict,
        "prefix rwkv7": prefixed("rwkv7."),
        "prefix model": prefixed("model."),
        "hf": hf_rwkv7,
        "web-rwkv": web_rwkv,
        "fla": fla_rwkv7,
        "fla of 2024": fla_rwkv7_of_2024,
    },
    "rwkv6": {
        "blinkdl": dict,
        "prefix rwkv6": prefixed("rwkv6."),
        "web-rwkv": web_rwkv,
        "fla": fla_rwkv6,
        "hf": hf_rwkv6,
    },
}


def write_safetensors(path: Path, tensors: Tensors) -> Path:
    save_file(
        {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}, path, metadata={"format": "pt"}
    )
    return path


def write_directory(
    path: Path, tensors: Tensors, shards: int = 1, *, stem: str = "model", ending: str = "safetensors", vocabulary: Path | None = None
) -> Path:
    """As save_pretrained leaves it: config.json, weights in one file or in shards with an index, perhaps a tokenizer.json."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"architectures": ["SomethingForCausalLM"], "num_hidden_layers": 99}))
    if vocabulary:
        (path / "tokenizer.json").write_bytes(vocabulary.read_bytes())
    write = write_safetensors if ending == "safetensors" else lambda file, part: torch.save(part, file)
    if shards == 1:
        write(path / f"{stem}.{ending}", tensors)
        return path
    weight_map = {}
    names = list(tensors)
    for i in range(shards):
        shard = f"{stem}-{i + 1:05}-of-{shards:05}.{ending}"
        part = {name: tensors[name].clone() for name in names[i::shards]}
        write(path / shard, part)
        weight_map |= dict.fromkeys(part, shard)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (path / f"{stem}.{ending}.index.json").write_text(json.dumps(index))
    return path
