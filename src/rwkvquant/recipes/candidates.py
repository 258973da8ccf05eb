"""What a budget may choose from.

Codebooks of 4 bits, and codebooks for 4 rows without compression, were tried: grids or compressed codebooks of the same bits lose less
(docs/methods/selection.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from rwkvquant.codecs import CodebookConfig, CodecConfig, GridConfig, PairConfig, SectionsConfig
from rwkvquant.config import GROUP_SIZES
from rwkvquant.recipes.setting import Setting

UNIFORM_BITS = range(2, 9)
LOW_BUDGET = 4.5  # budgets up to this one share their candidates, so one pass 1 serves them all
CODEBOOKS = (
    CodebookConfig(2, 16),
    CodebookConfig(2, 8),
    CodebookConfig(2, 4),
    CodebookConfig(3, 16),
    CodebookConfig(3, 8),
    CodebookConfig(3, 4, 4),
    CodebookConfig(3, 2, 4),
)
PAIRS = tuple(PairConfig(bits, 64) for bits in (4, 5, 6, 7))
FAST_PAIRS = PAIRS[:2]  # whose products take no longer than those of compressed codebooks, on AVX2 either
# Beside pairs other candidates of 2 and 3 bits are hardly ever chosen (docs/methods/pairs.md), and each takes time in pass 1.
GRIDS_BESIDE_PAIRS = range(4, 7)
CODEBOOKS_BESIDE_PAIRS = (CodebookConfig(2, 16), CodebookConfig(3, 16))
SECTIONS = (2, 2.5, 3, 3.5, 4, 5)  # bits of matrices that are stored by columns; more steps gain nothing, and each takes time
WIDE_SECTIONS = (4, 5, 6)
WIDE_CODEBOOKS = (CodebookConfig(4, 16), CodebookConfig(4, 8))  # for budgets that 3 bits cannot use up


def grids(quantizer: str, bits: Iterable[int], style: str) -> tuple[Setting, ...]:
    """Asymmetric grids of all group sizes; scales in 8 bits, or 16 in the style of the paper."""
    scale_bits = grid_scale_bits(style)
    return tuple(Setting(quantizer, GridConfig(b, group, False, scale_bits)) for b in bits for group in GROUP_SIZES[::-1])


def codebooks(quantizer: str, wide: bool) -> tuple[Setting, ...]:
    return _settings(quantizer, (*CODEBOOKS, *(WIDE_CODEBOOKS if wide else ())))


def with_pairs(slow: bool, style: str) -> tuple[Setting, ...]:
    """Pairs, and what loses less than they do somewhere. slow: with those of 6 and 7 bits too.

    Pairs lose less than other codebooks, and their products take longer from 6 bits on. Where many tokens or patches share what decodes a
    tile this costs nothing.
    """
    return (
        grids("gptq", GRIDS_BESIDE_PAIRS, style)
        + _settings("gptvq", CODEBOOKS_BESIDE_PAIRS)
        + _settings("gptvq", PAIRS if slow else FAST_PAIRS)
    )


def all_pairs() -> tuple[Setting, ...]:
    return _settings("gptvq", PAIRS)


def for_sparse_input(wide: bool, grid_quantizer: str, style: str) -> tuple[Setting, ...]:
    """For matrices whose input is a squared ReLU: only settings whose products skip columns, and grids where these have too few bits."""
    sections = tuple(Setting("gptvq", SectionsConfig(bits)) for bits in (WIDE_SECTIONS if wide else SECTIONS))
    return sections + (grids(grid_quantizer, (7, 8), style) if wide else ())


def _settings(quantizer: str, codecs: Iterable[CodecConfig]) -> tuple[Setting, ...]:
    return tuple(Setting(quantizer, codec) for codec in codecs)


def grid_scale_bits(style: str) -> int:
    return 16 if style == "paper" else 8
