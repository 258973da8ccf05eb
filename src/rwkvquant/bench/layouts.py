"""Which layout each matrix of a random model gets, within a budget of stored bits like that of a quantised model.

Nothing is quantised here. A preset chooses among the settings of its methods, by their errors on Gaussian weights and by random
sensitivities of the matrices, which vary like those of trained models. So the file has bit widths, group sizes and side information
like a real one.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from dataclasses import replace
from functools import cache

import numpy as np

from rwkvquant.codecs import CodebookConfig, DenseConfig, GridConfig, Packing, PairConfig, SectionsConfig
from rwkvquant.errors import ConfigError
from rwkvquant.selection.policy import Item, fit_budget

Shape = tuple[int, int]

PRESETS = ("default", "rows", "uniform", "codebook", "paper", "pairs", "dense")

# RWKVQuant's 3.275 bits: of ten matrices one has a grid at 3.5 bits, and nine have codebooks at 3.25, by the paper's count. Its section
# 4.1 exchanges the two widths, but only this reading fits Algorithm 1 and tables 13 to 15 (docs/methods/selection.md).
PAPER_GRID, PAPER_CODEBOOK = GridConfig(3, 32, scale_bits=16), CodebookConfig(3, group_rows=4, rank=4)
PAPER_ONE_IN = 10

# Standard deviation of the logarithm of a matrix's sensitivity. With it the default has nearly the same mix of widths as rwkv7-8m.
SPREAD = 1.0

# Mean squared error over mean square of 256 x 1024 Gaussian weights, by the package's own RTN and k-means with their defaults.
GRID_ERRORS = {  # bits, group size
    (2, 128): 0.136, (2, 64): 0.126, (2, 32): 0.112,
    (3, 128): 0.0349, (3, 64): 0.0310, (3, 32): 0.0259,
    (4, 128): 0.00908, (4, 64): 0.00759, (4, 32): 0.00595,
    (5, 128): 0.00224, (5, 64): 0.00181, (5, 32): 0.00139,
    (6, 128): 0.000550, (6, 64): 0.000441, (6, 32): 0.000336,
}  # fmt: skip
CODEBOOK_ERRORS = {  # bits, group rows, rank
    (2, 16, 0): 0.115, (2, 8, 0): 0.112, (2, 4, 0): 0.106,
    (3, 16, 0): 0.0319, (3, 8, 0): 0.0295, (3, 4, 4): 0.0266, (3, 2, 4): 0.0218,
}  # fmt: skip
PAIR_ERRORS = {4: 0.110, 5: 0.0586, 6: 0.0302, 7: 0.0151}  # bits of a pair, a table for 64 rows
# The same for columns of several widths, by their mean: 0.6 of the error of grids in groups of 64, as measured on layers
# (docs/methods/columnwise.md). Gaussian weights would not show it.
SECTION_ERRORS = {2: 0.076, 2.5: 0.038, 3: 0.019, 3.5: 0.0092, 4: 0.0046, 5: 0.0011, 6: 0.00026}


def codebook(shape: Shape, bits: int, group_rows: int, rank: int) -> Packing:
    """With the shift that random coefficients and bases need."""
    packing = CodebookConfig(bits, group_rows).packing(shape)
    return replace(packing, values={**packing.values, "rank": rank, "shift": 7 + (rank - 1).bit_length() if rank else 0})


def pairs(shape: Shape, bits: int) -> Packing:
    """One table for all rows."""
    return PairConfig(bits, -(-shape[0] // 16) * 16).packing(shape)


def choose(
    preset: str, shapes: Mapping[str, Shape], bits: float, sparse_input: Container[str] = (), images: bool = False
) -> dict[str, Packing]:
    """A packing for each projection and LoRA factor. Raises ConfigError for an unknown preset or a budget that cannot be met.

    `sparse_input`: the matrices whose input is mostly zero. The preset default stores them by columns; rows is the same without that.
    `images`: whether the model is for images; then the preset default has pairs as well.
    The presets paper and dense do not depend on `bits`.
    """
    if preset not in PRESETS:
        raise ConfigError(f"layouts must be one of {', '.join(PRESETS)}; got {preset}")
    if preset == "dense":
        return {name: DenseConfig().packing(shape) for name, shape in shapes.items()}
    if preset == "paper":
        table = PAPER_CODEBOOK
        return {
            name: PAPER_GRID.packing(shape) if index % PAPER_ONE_IN == 0 else codebook(shape, table.bits, table.group_rows, table.rank)
            for index, (name, shape) in enumerate(shapes.items())
        }
    random = np.random.default_rng(len(shapes))
    candidates: dict[str, list[Item[Packing]]] = {}
    for name, shape in shapes.items():
        loss = shape[0] * shape[1] * math.exp(SPREAD * random.standard_normal())
        candidates[name] = [
            (size, loss * error, packing) for size, error, packing in _settings(preset, shape, name in sparse_input, images)
        ]
    weights = {name: rows * cols for name, (rows, cols) in shapes.items()}
    return fit_budget(candidates, weights, bits, explicit=True)[0]


@cache  # a model has many matrices and few shapes
def _settings(preset: str, shape: Shape, sparse_input: bool, images: bool) -> list[tuple[int, float, Packing]]:
    """Stored bytes, loss and packing of each candidate of a matrix."""
    settings: list[tuple[Packing, float]] = []
    if preset == "default" and sparse_input:
        settings += [(SectionsConfig(bits).packing(shape), error) for bits, error in SECTION_ERRORS.items()]
    elif preset == "default":
        preset = "rows"
        settings += [(PairConfig(bits, 64).packing(shape), error) for bits, error in PAIR_ERRORS.items() if images]
    if preset in ("rows", "uniform"):
        settings += [(GridConfig(*grid).packing(shape), error) for grid, error in GRID_ERRORS.items()]
    if preset in ("rows", "codebook"):
        settings += [(codebook(shape, *table), error) for table, error in CODEBOOK_ERRORS.items() if preset == "rows" or table[2]]
    if preset == "pairs":
        settings += [(pairs(shape, bits), 2.0**-bits) for bits in range(4, 9)]
    return [(packing.stored_bytes, error, packing) for packing, error in settings]
