"""What a budget may choose from.

Codebooks of 4 bits, and codebooks for 4 rows without compression, were tried: grids or compressed codebooks of the same bits lose less
(docs/methods/selection.md).
"""

from __future__ import annotations

from collections.abc import Iterable

from rwkvquant.codecs import CodebookConfig, GridConfig, PairConfig, SectionsConfig
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
IMAGE_PAIRS = tuple(PairConfig(bits, 64) for bits in (4, 5, 6, 7))
SECTIONS = (2, 2.5, 3, 3.5, 4, 5)  # bits of matrices that are stored by columns; more steps gain nothing, and each takes time
WIDE_SECTIONS = (4, 5, 6)
WIDE_CODEBOOKS = (CodebookConfig(4, 16), CodebookConfig(4, 8))  # for budgets that 3 bits cannot use up


def grids(quantizer: str, bits: Iterable[int], style: str) -> tuple[Setting, ...]:
    """Asymmetric grids of all group sizes; scales in 8 bits, or 16 in the style of the paper."""
    scale_bits = grid_scale_bits(style)
    return tuple(Setting(quantizer, GridConfig(b, group, False, scale_bits)) for b in bits for group in GROUP_SIZES[::-1])


def codebooks(quantizer: str, wide: bool) -> tuple[Setting, ...]:
    return tuple(Setting(quantizer, codec) for codec in (*CODEBOOKS, *(WIDE_CODEBOOKS if wide else ())))


def pairs_for_images(wide: bool) -> tuple[Setting, ...]:
    """Pairs lose less than other codebooks. Their product is slower for one token, but patches share what decodes a tile."""
    return () if wide else tuple(Setting("gptvq", codec) for codec in IMAGE_PAIRS)


def for_sparse_input(wide: bool, grid_quantizer: str, style: str) -> tuple[Setting, ...]:
    """For matrices whose input is a squared ReLU: only settings whose products skip columns, and grids where these have too few bits."""
    sections = tuple(Setting("gptvq", SectionsConfig(bits)) for bits in (WIDE_SECTIONS if wide else SECTIONS))
    return sections + (grids(grid_quantizer, (7, 8), style) if wide else ())


def grid_scale_bits(style: str) -> int:
    return 16 if style == "paper" else 8
