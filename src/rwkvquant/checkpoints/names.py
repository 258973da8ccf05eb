"""One name table for each layout: its name for each tensor of an architecture, and what differs in the array.

    layout     architectures   names                                        arrays that differ from architectures/
    blinkdl    all             blocks.0.att.w1, perhaps after a prefix      none
    web-rwkv   rwkv6, rwkv7    blocks.0.att.w1; time_maa is time_mix        LoRA factors and time_state are transposed
    fla        rwkv6, rwkv7    model.layers.0.attn.w_lora.lora.0.weight     LoRA factors transposed, vectors flat, RWKV-6's mixes stacked
    hf         rwkv6           rwkv.blocks.0.attention.time_maa_w1          none
    hf         rwkv7           model.blocks.0.att.w1                        none; used for writing, read as blinkdl
    gguf       rwkv6, rwkv7    blk.0.time_mix_w1.weight                     LoRA factors are transposed; the mixes are stacked
    opengvlab  vrwkv           backbone.layers.0.att.key.weight             none
    hf         llama           model.layers.0.self_attn.q_proj.weight       none
    gguf       llama           blk.0.attn_q.weight                          rows of queries and keys (gguf_file.py, which knows the heads)

Where a table has no line for a tensor, the layout has no name for it. `attn.x_x` and `attn.x_bias` hold several tensors in one array.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from rwkvquant.architectures import ARCHITECTURES, Architecture, Role, TensorSpec
from rwkvquant.checkpoints.conversions import AS_IT_IS, BY_CHANNEL, FLAT, MIX_DOWN, MIX_UP, TRANSPOSED, VECTOR, Conversion, row, stacked


@dataclass(frozen=True)
class Place:
    """A tensor's name inside its block (outside the blocks: its whole name), and the conversion of its array."""

    name: str
    conversion: Conversion = AS_IT_IS


@dataclass(frozen=True)
class NameTable:
    """A layout for one architecture. `block` is the text before a block's number.

    `places`: our name inside the block, or our whole name -> the layout's. `also`: older names, which are read and never written.
    """

    name: str
    block: str
    places: Mapping[str, Place]
    also: Mapping[str, Place] = field(default_factory=dict)

    def stored_name(self, architecture: Architecture, name: str) -> str:
        """The layout's whole name of our tensor `name`. Raises KeyError where it has none."""
        block, key = architecture.split(name)
        return (f"{self.block}{block}." if block else "") + self.places[key].name


def _as_it_is(spec: TensorSpec) -> Conversion:
    return VECTOR if spec.shape == (1, 1, "C") else AS_IT_IS


def _transposed(spec: TensorSpec) -> Conversion:
    return TRANSPOSED if spec.transposed or spec.role is Role.STATE else _as_it_is(spec)


def _own(architecture: Architecture) -> NameTable:
    """The names of the architecture's own table."""
    return NameTable("blinkdl", architecture.block, {name: Place(name, _as_it_is(spec)) for name, spec in architecture.by_key.items()})


def _blinkdl(architecture: Architecture) -> NameTable:
    return replace(_own(architecture), also={"emb.weight": Place("embeddings.weight")})


def _web_rwkv(architecture: Architecture) -> NameTable:
    def renamed(name: str) -> str:
        return name.replace("time_maa", "time_mix").replace("time_faaaa", "time_first").lower()

    return NameTable("web-rwkv", "blocks.", {name: Place(renamed(name), _transposed(spec)) for name, spec in architecture.by_key.items()})


def _pairs(**names: str) -> dict[str, Place]:
    """The weight and bias of norms."""
    return {f"{ours}.{part}": Place(f"{theirs}.{part}") for ours, theirs in names.items() for part in ("weight", "bias")}


FLA_GLOBAL = {
    "emb.weight": Place("model.embeddings.weight"),
    **_pairs(ln_out="model.norm"),
    "head.weight": Place("lm_head.weight"),
}
FLA_NORMS = _pairs(ln0="pre_norm", ln1="attn_norm", ln2="ffn_norm") | {
    f"att.ln_x.{part}": Place(f"attn.g_norm.{part}") for part in ("weight", "bias")
}
PROJECTIONS = {"receptance": "r_proj", "key": "k_proj", "value": "v_proj", "output": "o_proj"}

FLA_RWKV7 = NameTable(
    "fla",
    "model.layers.",
    {
        **FLA_GLOBAL,
        **FLA_NORMS,
        **{f"att.{ours}.weight": Place(f"attn.{theirs}.weight") for ours, theirs in PROJECTIONS.items()},
        **{f"att.x_{c}": Place(f"attn.x_{c}", VECTOR) for c in "rwkvag"},
        **{f"att.{c}0": Place(f"attn.{c}_lora.lora.2.bias", FLAT) for c in "wav"},
        **{f"att.{c}1": Place(f"attn.{c}_lora.lora.0.weight", TRANSPOSED) for c in "wavg"},
        **{f"att.{c}2": Place(f"attn.{c}_lora.lora.2.weight", TRANSPOSED) for c in "wavg"},
        "att.k_k": Place("attn.k_k", FLAT),
        "att.k_a": Place("attn.k_a", FLAT),
        "att.r_k": Place("attn.r_k"),
        "ffn.x_k": Place("ffn.x_k", FLAT),
        "ffn.key.weight": Place("ffn.key.weight"),
        "ffn.value.weight": Place("ffn.value.weight"),
    },
    also={f"att.x_{c}": Place("attn.x_x", row(i, of=6)) for i, c in enumerate("rwkvag")},  # until 2025
)

FLA_RWKV6 = NameTable(
    "fla",
    "model.layers.",
    {
        **FLA_GLOBAL,
        **FLA_NORMS,
        **{f"att.{ours}.weight": Place(f"attn.{theirs}.linear.weight") for ours, theirs in PROJECTIONS.items()},
        "att.output.weight": Place("attn.o_proj.weight"),
        "att.gate.weight": Place("attn.g_proj.linear.weight"),
        "att.time_maa_x": Place("attn.x_proj.0.mu", FLAT),
        "att.time_maa_w1": Place("attn.x_proj.0.linear.weight", MIX_DOWN),
        "att.time_maa_w2": Place("attn.x_proj.2.weight", MIX_UP),
        **{f"att.time_maa_{c}": Place("attn.x_bias", row(i, of=5)) for i, c in enumerate("rwkvg")},
        "att.time_decay": Place("attn.w_proj.linear.lora.2.bias", FLAT),
        "att.time_decay_w1": Place("attn.w_proj.linear.lora.0.weight", TRANSPOSED),
        "att.time_decay_w2": Place("attn.w_proj.linear.lora.2.weight", TRANSPOSED),
        "att.time_faaaa": Place("attn.bonus"),
        "ffn.time_maa_k": Place("ffn.key.mu", FLAT),
        "ffn.time_maa_r": Place("ffn.receptance.mu", FLAT),
        "ffn.key.weight": Place("ffn.key.linear.weight"),
        "ffn.receptance.weight": Place("ffn.receptance.linear.weight"),
        "ffn.value.weight": Place("ffn.value.weight"),
    },
)


def _hf_rwkv6() -> NameTable:
    def renamed(name: str) -> str:
        name = name.replace("ln0.", "pre_ln.") if name.startswith("ln0.") else name
        return name.replace("att.", "attention.", 1) if name.startswith("att.") else name.replace("ffn.", "feed_forward.", 1)

    places = {spec.name: Place(renamed(spec.name), _as_it_is(spec)) for spec in ARCHITECTURES["rwkv6"].table}
    outside = {"emb.weight": Place("rwkv.embeddings.weight"), **_pairs(ln_out="rwkv.ln_out"), "head.weight": Place("head.weight")}
    return NameTable("hf", "rwkv.blocks.", places | outside)


def _hf_rwkv7() -> NameTable:
    """BlinkDL's names after "model.", except the head's. Only written: read as `blinkdl` with a prefix."""
    architecture = ARCHITECTURES["rwkv7"]
    own = _blinkdl(architecture).places
    outside = {spec.name: Place(spec.name if spec.role is Role.HEAD else f"model.{spec.name}") for spec in architecture.outside}
    return NameTable("hf", "model.blocks.", {**own, **outside})


GGUF_GLOBAL = {"emb.weight": Place("token_embd.weight"), **_pairs(ln_out="output_norm"), "head.weight": Place("output.weight")}
GGUF_NORMS = _pairs(ln0="token_embd_norm", ln1="attn_norm", ln2="attn_norm_2") | {
    f"att.ln_x.{part}": Place(f"time_mix_ln.{part}") for part in ("weight", "bias")
}
GGUF_RENAMED = {
    "time_maa_x": "lerp_x",
    "time_maa_w1": "w1",
    "time_maa_w2": "w2",
    "time_maa_k": "lerp_k",
    "time_maa_r": "lerp_r",
    "x_k": "lerp_k",
    "time_faaaa": "first",
    "time_decay": "decay",
    "time_decay_w1": "decay_w1",
    "time_decay_w2": "decay_w2",
}
GGUF_FUSED = {"rwkv7": [f"att.x_{c}" for c in "rwkvag"], "rwkv6": [f"att.time_maa_{c}" for c in "wkvrg"]}


def _gguf(arch: str) -> NameTable:
    """llama.cpp's names. token_embd_norm stands outside of the blocks in the file; gguf_file.py puts it into the first."""
    fused = GGUF_FUSED[arch]
    places = {name: Place("time_mix_lerp_fused.weight", stacked(i, of=len(fused))) for i, name in enumerate(fused)}
    for spec in ARCHITECTURES[arch].table:
        if spec.role is Role.STATE or spec.name in places or spec.name in GGUF_NORMS:
            continue
        mix, _, rest = spec.name.removesuffix(".weight").partition(".")
        name = f"{'time_mix' if mix == 'att' else 'channel_mix'}_{GGUF_RENAMED.get(rest, rest)}.weight"
        vector = FLAT if spec.shape == (1, 1, "C") else BY_CHANNEL if rest == "r_k" else AS_IT_IS
        places[spec.name] = Place(name, TRANSPOSED if spec.transposed else vector)
    return NameTable("gguf", "blk.", {**GGUF_GLOBAL, **GGUF_NORMS, **places})


def _llama(name: str, block: str, renamed: Mapping[str, str]) -> NameTable:
    """`renamed`: parts of our names -> the layout's. It has no names for settings, which are not tensors there."""
    architecture, places = ARCHITECTURES["llama"], {}
    for key, spec in architecture.by_key.items():
        if spec.role is not Role.SETTING:
            stem, _, kind = key.rpartition(".")
            places[key] = Place(f"{renamed.get(stem, stem)}.{kind}")
    return NameTable(name, block, places)


GGUF_LLAMA = {
    **{"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"},
    **{"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"},
    **{f"self_attn.{c}_proj": f"attn_{c}" for c in "qkv"},
    **{"self_attn.o_proj": "attn_output"},
    **{f"mlp.{c}_proj": f"ffn_{c}" for c in ("gate", "up", "down")},
}

NAME_TABLES: dict[tuple[str, str], NameTable] = {
    **{("blinkdl", arch): _blinkdl(ARCHITECTURES[arch]) for arch in ("rwkv7", "rwkv6")},
    **{("web-rwkv", arch): _web_rwkv(ARCHITECTURES[arch]) for arch in ("rwkv7", "rwkv6")},
    ("fla", "rwkv7"): FLA_RWKV7,
    ("fla", "rwkv6"): FLA_RWKV6,
    ("hf", "rwkv7"): _hf_rwkv7(),
    **{("gguf", arch): _gguf(arch) for arch in ("rwkv7", "rwkv6")},
    ("hf", "rwkv6"): _hf_rwkv6(),
    ("hf", "llama"): _llama("hf", "model.layers.", {}),
    ("gguf", "llama"): _llama("gguf", "blk.", GGUF_LLAMA),
    ("opengvlab", "vrwkv"): replace(_own(ARCHITECTURES["vrwkv"]), name="opengvlab"),
}


def name_table(name: str, architecture: Architecture) -> NameTable | None:
    """None where the architecture has no such layout. Every architecture has "blinkdl": the names of its table."""
    table = NAME_TABLES.get((name, architecture.name))
    return _blinkdl(architecture) if table is None and name == "blinkdl" else table


# How translate.py recognises a layout from the names in a file.
PREFIXES = ("rwkv7.", "rwkv6.", "model.")
# The text before a block's number shows the family. A file has one family.
LLAMA_BLOCK = r"model\.layers\.\d+\.(self_attn|mlp|input_layernorm|post_attention_layernorm)\."
FAMILIES = {
    "BlinkDL": r"blocks\.\d",
    **{f"BlinkDL with the prefix {prefix!r}": re.escape(prefix) + r"blocks\.\d" for prefix in PREFIXES},
    "Hugging Face LLaMA": LLAMA_BLOCK,
    "fla": rf"(?!{LLAMA_BLOCK})model\.layers\.\d",
    "Hugging Face RWKV-6": r"rwkv\.blocks\.\d",
    "GGUF": r"blk\.\d",
    "OpenGVLab": r"backbone\.layers\.\d",
}
WEB_RWKV6_MARK = r"blocks\.\d+\.att\.time_mix_(x|w1|w2)"  # RWKV-4 and 5 have other time_mix names in BlinkDL's checkpoints
FLA_RWKV6_MARK = r"model\.layers\.\d+\.attn\.(x_proj|x_bias|w_proj)\b"
GGUF_LLAMA_MARK = r"blk\.\d+\.attn_q\."
GGUF_RWKV6_MARK = r"blk\.\d+\.time_mix_(first|lerp_x|decay)"
FIRST_FACTOR = r"blocks\.\d+\.att\.([wavg]1|time_(maa|mix|decay)_w1)"  # (C, rank) in BlinkDL's layout, (rank, C) in web-rwkv's
EMBEDDINGS = ("emb.weight", "embeddings.weight")
