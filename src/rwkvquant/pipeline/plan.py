"""What becomes of every tensor, decided before any calibration: its grid or its precision, and the ledger that follows.

With a bit budget, the error of a candidate grid is estimated by rounding a sample of rows, relative to their energy and weighted by
the number of weights: to first order the loss is a sum over matrices of sensitivity times relative error (the linearity theorem
of HIGGS, arXiv:2411.17525), and without calibration all sensitivities are taken as equal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint, LogicalMatrix
from rwkvquant.checkpoints.tables import QUANTIZED_ROLES, Role, TensorSpec
from rwkvquant.config import DEFAULT_BITS, GridConfig, QuantizeConfig
from rwkvquant.formats.layout import choose_layout, stored_bytes, stored_bytes_dense
from rwkvquant.formats.ledger import Ledger, make_item
from rwkvquant.pipeline.progress import Progress
from rwkvquant.quantizers.uniform import rtn
from rwkvquant.selection.policy import fit_budget, override_bits

CANDIDATES = [GridConfig(bits=bits, group_size=group) for bits in range(2, 9) for group in (128, 64, 32)]
SAMPLED_ROWS = 16
LARGEST_HALF = 65504.0


@dataclass(frozen=True)
class PlannedTensor:
    """One tensor of the packed file. `grid` None means dense, with `dense_bits`; `rows` the layout that is read row by row."""

    name: str
    source: str  # the checkpoint's tensor it lies in
    spec: TensorSpec
    layer: int | None  # None for what stands before or behind the blocks, ln0 too
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    grid: GridConfig | None
    dense_bits: int = 16
    rows: bool = False

    @property
    def key(self) -> str:
        """Its name among the weights of its block, or of the whole model."""
        return self.name if self.layer is None else self.name.removeprefix(f"blocks.{self.layer}.")

    @property
    def layout(self) -> str:
        if self.grid is None:
            return choose_layout("dense", self.dense_bits, self.shape)
        return choose_layout("uniform", self.grid.bits, self.shape, self.grid.group_size, self.rows)

    @property
    def stored_bytes(self) -> int:
        return stored_bytes_dense(self.shape, self.dense_bits) if self.grid is None else stored_bytes(self.grid, self.shape, self.rows)


def make_plan(checkpoint: Checkpoint, config: QuantizeConfig, progress: Progress) -> list[PlannedTensor]:
    """Every tensor that the forward uses, in file order. Raises ConfigError for a budget or an override that cannot be met."""
    grids = choose_grids(checkpoint, config, progress)
    matrices: dict[str, list[LogicalMatrix]] = {}
    for matrix in checkpoint.logical_matrices():
        matrices.setdefault(matrix.source, []).append(matrix)

    plan = []
    for name, spec, layer in checkpoint.specs():
        owner = None if spec.layers == "first" else layer
        source_shape = checkpoint.tensors[name].shape
        if name in matrices:
            for matrix in matrices[name]:
                shape_of_slice = source_shape[1:] if spec.slices else source_shape
                grid = _head_grid(config) if spec.role is Role.HEAD else grids[matrix.name]
                dense_bits = _dense_bits(checkpoint.read(name)) if grid is None else 0
                plan.append(PlannedTensor(matrix.name, name, spec, owner, matrix.shape, shape_of_slice, grid, dense_bits))
        elif spec.role is Role.EMBEDDING and config.emb_bits < 16:
            grid = GridConfig(bits=config.emb_bits, symmetric=True, scale_bits=16)
            plan.append(PlannedTensor(name, name, spec, owner, source_shape, source_shape, grid, rows=True))
        elif spec.role is Role.ELEMENTWISE and (vector_grid := _vector_grid(config, checkpoint.dims.width)) is not None:
            plan.append(PlannedTensor(name, name, spec, owner, (1, checkpoint.dims.width), source_shape, vector_grid, rows=True))
        else:
            lossless = spec.role not in (Role.EMBEDDING, Role.ELEMENTWISE)
            dense_bits = _dense_bits(checkpoint.read(name), lossless)
            plan.append(PlannedTensor(name, name, spec, owner, source_shape, source_shape, None, dense_bits))
    return plan


def choose_grids(checkpoint: Checkpoint, config: QuantizeConfig, progress: Progress) -> dict[str, GridConfig]:
    """One grid for each projection and LoRA factor, by logical name.

    Raises ConfigError for an explicit budget that no choice meets; without one, the smallest reachable is used and named.
    """
    shapes = {matrix.name: matrix.shape for matrix in checkpoint.logical_matrices() if matrix.spec.role in QUANTIZED_ROLES}
    overrides = override_bits(config.tensor_bits, list(shapes))
    if config.code_bits is not None:
        plain = config.plain_grid
        return {name: dataclasses.replace(plain, bits=overrides.get(name, plain.bits)) for name in shapes}

    progress.phase("choosing bits")
    candidates = {}
    for name, shape in shapes.items():
        allowed = [grid for grid in CANDIDATES if grid.bits == overrides.get(name, grid.bits)]
        sample = _sampled_rows(checkpoint.read_matrix(name))
        candidates[name] = [(stored_bytes(grid, shape), _relative_error(sample, grid) * shape[0] * shape[1], grid) for grid in allowed]
    weights = {name: rows * cols for name, (rows, cols) in shapes.items()}
    bits = DEFAULT_BITS if config.bits is None else config.bits
    grids, reached = fit_budget(candidates, weights, bits, explicit=config.bits is not None)
    if reached > bits:
        cause = "these shapes with your --tensor-bits" if overrides else "these shapes"
        progress.note(f"{cause} cannot reach {bits} bits per weight; using the smallest reachable, {reached:.3f}")
    return grids


def planned_ledger(plan: list[PlannedTensor], method: str, tokenizer_bytes: int) -> Ledger:
    """The ledger of the file that this plan leads to; the header alone is not known before it is written."""
    items = tuple(make_item(t.name, str(t.spec.role), t.shape, t.stored_bytes, method_of(t, method), t.layout) for t in plan)
    return Ledger(items, tokenizer_bytes)


def method_of(tensor: PlannedTensor, method: str) -> str:
    """What is done to a tensor: matrices by the method, what is read row by row (embedding, vectors) by RTN."""
    if tensor.grid is None:
        return "dense"
    return "rtn" if tensor.rows else method


def _vector_grid(config: QuantizeConfig, width: int) -> GridConfig | None:
    """None where 16 bits take no more room: in narrow models padding eats what 8 bits save."""
    grid = GridConfig(bits=8, scale_bits=16)
    if config.vector_bits == 16 or stored_bytes(grid, (1, width), rows_layout=True) >= stored_bytes_dense((width,)):
        return None
    return grid


def _head_grid(config: QuantizeConfig) -> GridConfig | None:
    return None if config.head_bits == 16 else GridConfig(bits=config.head_bits)


def _dense_bits(values: NDArray[np.float32], lossless: bool = False) -> int:
    """16 where float16 can hold the values (all of their bits, if `lossless`), else 32."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    fits = np.array_equal(half.astype(np.float32), values) if lossless else bool(np.isfinite(half).all())
    return 16 if fits else 32


def _sampled_rows(W: NDArray[np.float32]) -> NDArray[np.float32]:
    return W[np.linspace(0, len(W) - 1, min(SAMPLED_ROWS, len(W))).astype(int)]


def _relative_error(W: NDArray[np.float32], grid: GridConfig) -> float:
    energy = float(np.square(W, dtype=np.float64).sum())
    return float(np.square(W - rtn(W, grid, "weight").decode(), dtype=np.float64).sum()) / energy if energy else 0.0
