"""The options that several methods share, and the parts of a recipe that follow from them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.config import (
    CHOICES,
    CLIP_SEARCHES,
    CODEBOOK_SIZES,
    DEFAULT_BITS,
    EMB_BITS,
    GROUP_SIZES,
    HEAD_BITS,
    PROXY_READINGS,
    SCALE_BITS,
    STYLES,
    VECTOR_BITS,
    VECTOR_CODEBOOKS,
)
from rwkvquant.errors import ConfigError
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.recipes.method import Interval, Option, Said, in_words
from rwkvquant.recipes.recipe import Chooser
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.algorithm1 import USUAL
from rwkvquant.selection.proxy import ORDERS
from rwkvquant.selection.selectors import SELECTORS

YES_NO = (True, False)
BY_STYLE = {"tuned": True, "paper": False}
BY_PROXIES = ("algorithm1", "fixed", "share")

BUDGET = Option(
    "bits",
    Interval(0, 16, open_low=True),
    "Budget: stored bits per weight of all projections and LoRA factors, side information included",
    DEFAULT_BITS,
)
STYLE = Option("style", STYLES, "Our own settings, or those of the RWKVQuant paper", STYLES[0])
PAPER_STYLE = Option("style", ("paper",), STYLE.help, "paper")
CHOICE = Option("choice", CHOICES, "SQ or VQ for each tensor: by errors, the same for all, or by a rule of the papers", "error")
PROXY = Option("proxy", PROXY_READINGS, "How gaps between weights are read, for the choices algorithm1, fixed and share", "paper")
PERCENTILES = (
    Option("coarse_share", Interval(0, 1), "C of Algorithm 1: the share of the tensors that its first proxy lets pass", 0.5),
    Option("fine_share", Interval(0, 1), "F of Algorithm 1: the share of those that get a uniform grid", 0.2),
    Option("order", ORDERS, "K of the second proxy, P_f", 4),
)
THRESHOLDS = (
    Option("tau_c", Interval(0, 1e30), "With the choice fixed: uniform grids only where P_c is below it", USUAL.coarse),
    Option("tau_f", Interval(0, 1e30), "With the choice fixed: uniform grids only where P_f is below it", USUAL.fine),
)
SHARE = (
    Option("selector", tuple(SELECTORS), "With the choice share: what orders the tensors, from uniform grids to codebooks", "nats"),
    Option("sq_share", Interval(0, 1), "With the choice share: the share of all weights that get uniform grids", 0.5),
)
CLIP_SEARCH = Option(
    "clip_search", CLIP_SEARCHES, "The error that the search for the range of a grid minimises", {"tuned": "hessian", "paper": "none"}
)
CLIP_SEARCH_PLAIN = Option("clip_search", CLIP_SEARCHES, CLIP_SEARCH.help, {"tuned": "weight", "paper": "none"})
ACT_ORDER = Option("act_order", YES_NO, "Take columns in the order of falling diag(H), with static groups", BY_STYLE)
DAMPING = Option(
    "damping", Interval(0, 10), "Added to diag(H), as a fraction of its mean; correction uses it too", {"tuned": 0.05, "paper": 0.01}
)
CORRECTION = Option(
    "correction",
    Interval(0, 1),
    "The share of earlier errors that the last products of a block correct, or the norms after them; all products with gptaq and qronos",
    0.0,
)
FALL_BACK = Option("fall_back", YES_NO, "Round to nearest where that does better on text kept out", BY_STYLE)
SIDES = (
    Option("head_bits", (*range(2, 9), 16), "Bits of the head", HEAD_BITS),
    Option("emb_bits", (*range(2, 9), 16), "Bits of the embedding", EMB_BITS),
    Option("vector_bits", (3, 8, 16), "Bits of element-wise vectors", VECTOR_BITS),
    Option("vector_codebook", VECTOR_CODEBOOKS, "Codebooks for vectors of 3 bits, and what weighs their elements"),
)
CODE_BITS = Option("code_bits", range(2, 9), "Instead of a budget: bits of a code, the same setting for every matrix")
CODEBOOK_CODE_BITS = Option("code_bits", (2, 3, 4), CODE_BITS.help)
GRID = (
    Option("group_size", GROUP_SIZES, "Weights that share a scale; with whole bits", 64),
    Option("symmetric", YES_NO, "Grids without zero points; with whole bits", False),
    Option("scale_bits", SCALE_BITS, "Bits of the scale of a group; 8 adds one float16 a row; with whole bits", {"tuned": 8, "paper": 16}),
)
CODEBOOK = (
    Option("codebook_size", CODEBOOK_SIZES, "Weights that share a codebook; with whole bits", 128),
    Option("codebook_rank", range(9), "Compress codebooks to this rank, 0 for no compression; with whole bits", 0),
    Option("codebook_dim", (1, 2), "Neighbouring weights that share a code; with whole bits", 1),
)
COMMON = (DAMPING, CORRECTION, *SIDES)


def shared(said: Said, head_quantizer: str) -> dict[str, Any]:
    """The fields of a recipe that every method fills in the same way. The head has its own bits, and always a uniform grid."""
    style = said.style
    if said.vector_codebook is not None and said.vector_bits != 3:
        raise ConfigError(f"vector_codebook goes with vector_bits 3; got {said.vector_bits}")
    tuned = style == "tuned"
    act_order, fall_back = said.act_order, said.fall_back
    return {
        **said.always(),
        "quantizer": QuantizerOptions(style, said.clip_search, tuned if act_order is None else act_order, float(said.damping)),
        "correction": float(said.correction),
        "fall_back": tuned if fall_back is None else fall_back,  # also where nothing can fall back: all methods then see the same text
        "head": () if said.head_bits == 16 else (Setting(head_quantizer, GridConfig(bits=said.head_bits)),),
        "embedding": () if said.emb_bits == 16 else (Setting("rtn", GridConfig(said.emb_bits, symmetric=True, scale_bits=16)),),
        "vectors": () if said.vector_bits == 16 else (_vectors(said),),
        "vector_weights": said.vector_codebook or "none",
    }


def _vectors(said: Said) -> Setting:
    if said.vector_codebook is not None:
        return Setting("kmeans", CodebookConfig(said.vector_bits, group_rows=1))
    return Setting("rtn", GridConfig(bits=said.vector_bits, scale_bits=16))


def budget(said: Said, chooser: Chooser | None = None) -> Chooser:
    """`chooser` with the budget that was said; without one, errors decide."""
    return replace(chooser or Chooser(), bits=float(said.bits), required=said.request.bits is not None)


def one_code(said: Said, *forms: str) -> int | None:
    """Bits of a code where every matrix gets the same setting; None where a budget chooses.

    `forms`: options that only such a setting has. With one of them, whole `bits` are the bits of a code, as in other tools.
    """
    code_bits, bits, given = said.request.code_bits, said.request.bits, said.given(*forms)
    if bits is not None and code_bits is not None:
        raise ConfigError("give bits (a budget) or code_bits (one setting for every matrix), not both")
    if code_bits is not None or not given:
        return code_bits
    words, go = in_words(given), "goes" if len(given) == 1 else "go"
    if bits is None:
        raise ConfigError(f"{words} {go} with whole bits, one setting for every matrix. Try --bits 4, or --code-bits 4")
    if bits != int(bits):
        raise ConfigError(
            f"{words} {go} with whole bits, one setting for every matrix; bits {bits:g} are a budget, which chooses that itself. "
            f"Try --bits {int(bits) + 1}, or leave {'it' if len(given) == 1 else 'them'} out"
        )
    option = said.method.option("code_bits")
    if option is not None and int(bits) not in option.allowed:
        raise ConfigError(
            f"bits must be {option.values.replace(' | ', ' or ')} where {words} {'is' if len(given) == 1 else 'are'} given; got {bits:g}"
        )
    return int(bits)
