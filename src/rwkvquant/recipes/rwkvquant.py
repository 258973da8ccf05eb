"""The default: grids and codebooks with error feedback, every candidate measured, and a budget of stored bits.

Matrices whose input is mostly zero, a squared ReLU in language models, are stored by columns, so that a product need not read those that
are multiplied by zero. At equal bits that also has less loss (docs/methods/columnwise.md). Other styles and rules choose between the
paper's two kinds, and do not do it. In models for images this input has fewer zeros, and columns are not used unless they are asked for
(docs/methods/vision.md).

Pass 1 turns errors into nats per token (calibration/sensitivity.py), so losses of different matrices can be compared, and traded for bytes.
"""

from __future__ import annotations

from dataclasses import replace

from rwkvquant.errors import ConfigError
from rwkvquant.recipes.candidates import LOW_BUDGET, UNIFORM_BITS, codebooks, for_sparse_input, grids, pairs_for_images
from rwkvquant.recipes.hybrids import chooser_of, refuse_order_of_codebooks
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import (
    ACT_ORDER,
    BUDGET,
    CHOICE,
    CLIP_SEARCH,
    COMMON,
    CORRECTION,
    FALL_BACK,
    PERCENTILES,
    PROXY,
    SHARE,
    STYLE,
    THRESHOLDS,
    YES_NO,
    budget,
    shared,
)
from rwkvquant.recipes.recipe import Recipe

BY_COLUMNS = Option(
    "by_columns",
    YES_NO,
    "Store matrices with a squared ReLU as input by columns, in language models less loss at equal bits, and a product that skips those it "
    "multiplies by 0 (default: yes in language models, with the style tuned and the choice error)",
)
BALANCE = Option(
    "balance",
    YES_NO,
    "Scale input channels that are more than eight times out of line; models without such channels are not changed (default: yes, with the "
    "style tuned and the choice error)",
)
ROTATE = Option(
    "rotate",
    YES_NO,
    "Rotate the input of every matrix that is not stored by columns by a Hadamard matrix with random signs, for less loss at equal bits "
    "(default: yes in language models, with the style tuned and the choice error)",
)
WIDE = Option(
    "wide",
    YES_NO,
    "Try codebooks of 4 bits too (default: for budgets above 4.5 bits, and with the choice share, so that both kinds have as many bits)",
)
PAIRS = Option(
    "pairs",
    YES_NO,
    "Try codebooks of pairs of weights too, for budgets up to 4.5 bits: less loss at equal bits, and slower decoding with 7 bits, without "
    "AVX-512 also with 6 (default: yes in models for images, with the style tuned and the choice error)",
)
OPTIONS = (
    BUDGET,
    STYLE,
    CHOICE,
    PROXY,
    *PERCENTILES,
    *THRESHOLDS,
    *SHARE,
    CLIP_SEARCH,
    ACT_ORDER,
    FALL_BACK,
    BY_COLUMNS,
    BALANCE,
    WIDE,
    ROTATE,
    PAIRS,
    *(replace(option, default=0.5) if option is CORRECTION else option for option in COMMON),
)


def build(said: Said) -> Recipe:
    low = said.bits <= LOW_BUDGET
    near = range(2, 7) if low else range(4, 9)  # pass 1 has no time to try them all
    if said.tensor_bits:
        near = UNIFORM_BITS  # tensor_bits may ask for any of them
    chooser = budget(said, chooser_of(said))
    wide = (not low or chooser.rule == "share") if said.wide is None else said.wide
    pairs = pairs_for_images(not low)
    candidates = grids("gptq", near, said.style) + codebooks("gptvq", wide) + (pairs if said.pairs else ())
    refuse_order_of_codebooks(said, candidates)
    fits = said.style == "tuned" and chooser.rule == "error"
    for name, why in (
        ("by_columns", "choose between the paper's two kinds"),
        ("pairs", "choose between the paper's two kinds"),
        ("rotate", "read what the paper reads, weights as they are"),
    ):
        if getattr(said, name) and not fits:
            raise ConfigError(
                f"{name} goes with the style tuned and the choice error: other styles and rules {why}; got {said.style} and {chooser.rule}"
            )
    if said.pairs and not low:
        raise ConfigError(f"pairs goes with budgets up to {LOW_BUDGET} bits: larger ones try other candidates; got {said.bits:g}")
    by_columns = fits if said.by_columns is None else said.by_columns
    sparse_input = for_sparse_input(not low, "gptq", said.style) if by_columns else ()
    return Recipe(
        candidates=candidates,
        sparse_input=sparse_input,
        nonnegative_input=sparse_input if said.by_columns else (),
        for_images=pairs if fits and said.pairs is None else (),
        transform="hadamard" if said.rotate else "none",
        text_transform="hadamard" if fits and said.rotate is None else "none",
        balanced=fits if said.balance is None else said.balance,
        chooser=chooser,
        measured=True,
        **shared(said, "gptq"),
    )


METHOD = Method("rwkvquant", "grids and codebooks, each tensor by its measured loss", OPTIONS, build)
