"""Which layout each matrix of a random model gets, under the same budget of stored bits as a quantised one.

Nothing is quantised here, so the errors that the budget is shared out by are those of Gaussian weights, roughly: a bit less is
four times the error, and a table or a scale that serves more weights is a little worse. What counts is that each preset is a
plausible file: its widths, group sizes and side information are those that a real one of its kind would have.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rwkvquant.config import GridConfig
from rwkvquant.errors import ConfigError
from rwkvquant.formats.layout import TensorParams, choose_layout, stored_bytes, stored_bytes_codebook, stored_bytes_pairs
from rwkvquant.selection.policy import Candidate, fit_budget

Packing = tuple[str, TensorParams]  # layout id and parameters
Shape = tuple[int, int]

PRESETS = ("default", "uniform", "codebook", "paper", "pairs", "dense")
PAPER_CODEBOOK_SHARE = 10  # RWKVQuant: nine of ten matrices uniform at 3.25 bits, one codebooks at 3.5


def uniform(shape: Shape, grid: GridConfig, rows: bool = False) -> Packing:
    params = TensorParams(shape, grid.group_size, grid.symmetric, grid.scale_bits)
    return choose_layout("uniform", grid.bits, shape, grid.group_size, rows), params


def codebook(shape: Shape, bits: int, group_rows: int, rank: int) -> Packing:
    shift = 7 + (rank - 1).bit_length() if rank else 0
    return choose_layout("codebook", bits, shape), TensorParams(shape, group_rows=group_rows, rank=rank, shift=shift)


def pairs(shape: Shape, bits: int) -> Packing:
    return choose_layout("pairs", bits, shape), TensorParams(shape, group_rows=-(-shape[0] // 16) * 16)


def dense(shape: tuple[int, ...], bits: int = 16) -> Packing:
    return choose_layout("dense", bits, shape), TensorParams(shape)


def choose(preset: str, shapes: Mapping[str, Shape], bits: float) -> dict[str, Packing]:
    """A packing for each projection and LoRA factor. Raises ConfigError for an unknown preset or a budget that cannot be met.

    The presets paper and dense are what they are, whatever `bits`.
    """
    if preset not in PRESETS:
        raise ConfigError(f"layouts must be one of {', '.join(PRESETS)}; got {preset}")
    if preset == "dense":
        return {name: dense(shape) for name, shape in shapes.items()}
    if preset == "paper":
        plain = GridConfig(3, 64, symmetric=True, scale_bits=16)
        return {
            name: codebook(shape, 3, 2, 4) if index % PAPER_CODEBOOK_SHARE == 0 else uniform(shape, plain)
            for index, (name, shape) in enumerate(shapes.items())
        }
    candidates: dict[str, list[Candidate[Packing]]] = {}
    for name, shape in shapes.items():
        found: list[Candidate[Packing]] = []
        if preset in ("default", "uniform"):
            found += _uniform_candidates(shape)
        if preset in ("default", "codebook"):
            found += _codebook_candidates(shape)
        if preset == "pairs":
            found += [
                (stored_bytes_pairs(shape, b, pairs(shape, b)[1].group_rows), _error(b / 2, 1.0, shape), pairs(shape, b))
                for b in range(4, 9)
            ]
        candidates[name] = found
    weights = {name: rows * cols for name, (rows, cols) in shapes.items()}
    return fit_budget(candidates, weights, bits, explicit=True)[0]


def _uniform_candidates(shape: Shape) -> list[Candidate[Packing]]:
    grids = [GridConfig(bits, group) for bits in range(2, 9) for group in (128, 64, 32)]
    return [(stored_bytes(grid, shape), _error(grid.bits, math.log(grid.group_size), shape), uniform(shape, grid)) for grid in grids]


def _codebook_candidates(shape: Shape) -> list[Candidate[Packing]]:
    """With compressed tables; `group_rows` rows and 32 columns share one."""
    found: list[Candidate[Packing]] = []
    for bits in (2, 3, 4):
        for group_rows in (2, 4, 8):
            if 2**bits > 4 * group_rows:
                continue
            for rank in (1, 2, 4):
                worse = math.log(32 * group_rows) * (1 + 0.1 / rank) / 1.2
                found.append(
                    (
                        stored_bytes_codebook(shape, bits, group_rows, rank),
                        _error(bits, worse, shape),
                        codebook(shape, bits, group_rows, rank),
                    )
                )
    return found


def _error(bits: float, worse: float, shape: Shape) -> float:
    return 4.0**-bits * worse * shape[0] * shape[1]
