"""LLaMA (arXiv:2302.13971, 2307.09288): a transformer with RMSNorm, RoPE, grouped-query attention and SwiGLU. A control for RWKV.

The names are Hugging Face's. What its tensors do not show comes from config.json (or the header of a GGUF file) and is kept here as small
tensors, so that a packed file has it too (checkpoints/settings.py makes them):

    *.epsilon                (1,)  of an RMSNorm
    self_attn.frequencies    (N,)  RoPE: the angle that each channel of a head turns by from one token to the next; the second half
                                   repeats the first, as channel i turns with channel i + N/2
    self_attn.score_scale    (H,)  what q . k is multiplied with: 1 / sqrt(N)

Two more symbols: Q = H N, the rows of the queries, and KV = (key and value heads) N.
"""

from __future__ import annotations

from rwkvquant.architectures.architecture import Architecture, Producer
from rwkvquant.architectures.base import Role, TensorSpec, projection
from rwkvquant.architectures.dims import Dims
from rwkvquant.kernels.state import StateArray

EPSILON, FREQUENCIES, SCORE_SCALE = "epsilon", "self_attn.frequencies", "self_attn.score_scale"


def _rms_norm(name: str) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.weight", ("C",), Role.NORM), TensorSpec(f"{name}.{EPSILON}", (1,), Role.SETTING)]


OUTSIDE = (
    TensorSpec("model.embed_tokens.weight", ("V", "C"), Role.EMBEDDING),
    *_rms_norm("model.norm"),
    TensorSpec("lm_head.weight", ("V", "C"), Role.HEAD, input="head.x"),
)

TABLE = (
    *_rms_norm("input_layernorm"),
    projection("self_attn.q_proj.weight", ("Q", "C"), "attn.x"),
    projection("self_attn.k_proj.weight", ("KV", "C"), "attn.x"),
    projection("self_attn.v_proj.weight", ("KV", "C"), "attn.x"),
    TensorSpec(FREQUENCIES, ("N",), Role.SETTING),
    TensorSpec(SCORE_SCALE, ("H",), Role.SETTING),
    projection("self_attn.o_proj.weight", ("C", "Q"), "attn.out", writes_residual=True),
    *_rms_norm("post_attention_layernorm"),
    projection("mlp.gate_proj.weight", ("F", "C"), "mlp.x"),
    projection("mlp.up_proj.weight", ("F", "C"), "mlp.x"),
    projection("mlp.down_proj.weight", ("C", "F"), "mlp.hidden", writes_residual=True),
)

# Heads of queries may share a head of v_proj, so its rows are not those of the input of o_proj.
PRODUCERS = {
    "attn.x": Producer(("input_layernorm.weight",)),
    "mlp.x": Producer(("post_attention_layernorm.weight",)),
    "mlp.hidden": Producer(("mlp.up_proj.weight",)),
}

CACHE = (
    StateArray("keys", ("L", "B", "T", "KV")),  # before RoPE
    StateArray("values", ("L", "B", "T", "KV")),
)


def heads_fit(dims: Dims) -> str | None:
    """A set of sizes without ranks, such as those of a state alone, breaks no rule."""
    queries, keys, size = dims.ranks.get("Q", 0), dims.ranks.get("KV", 0), dims.head_size
    if not (queries and keys and size):
        return None
    if size % 2 or queries != dims.heads * size or keys % size or queries % keys:
        return (
            f"the heads of q_proj must be {dims.heads} of an even size, and a multiple of those of k_proj; got {queries} rows, {keys} rows "
            f"and heads of {size}"
        )
    return None


ARCHITECTURE = Architecture(
    name="llama",
    title="LLaMA",
    table=TABLE,
    outside=OUTSIDE,
    state=CACHE,
    mark=r"^model\.layers\.\d+\.self_attn\.q_proj\.weight$",
    anchors=("self_attn.q_proj.weight", "mlp.gate_proj.weight"),
    block="model.layers.",
    producers=PRODUCERS,
    rules=(heads_fit,),
    released={},
)
