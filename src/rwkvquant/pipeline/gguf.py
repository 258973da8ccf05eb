"""The matrices of a model in llama.cpp's block types, rounded by our error feedback; exporting/gguf.py writes them into a file.

Block by block, as in quantize.py: the calibration text runs through the blocks that are quantised already; each projection is rounded for
the inputs that it then has (quantizers/gguf/); the text goes on through the quantised block. The products that write to the residual
stream also make up for earlier errors (quantizers/shared/correction.py). Embedding rows have no inputs. What their errors cost is in the
gradients by the rows, so a pass backward comes first (calibration/sensitivity.py), and their second moments take the place of H. As in
llama.cpp, LoRA factors and vectors keep 16 or 32 bits, the head is q6_K (q8_0 for q8_0), and a matrix whose rows are no multiple of 256
gets a type with blocks of 32, so a file has the size of llama-quantize's.

Gives up: all quantised matrices are in memory until the file is written, and a job that was killed starts again.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Role, TensorSpec
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.config import CalibrationConfig, QuantizeRequest
from rwkvquant.errors import CheckpointError
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline.backward import backward_pass
from rwkvquant.pipeline.blocks import calibration_run
from rwkvquant.pipeline.calibrate import Calibration, calibrate, documents_of
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tensors import Collected
from rwkvquant.quantizers.gguf.blocks import pack
from rwkvquant.quantizers.gguf.gptq import BlockCodes, gptq
from rwkvquant.quantizers.gguf.grids import GRIDS, BlockGrid
from rwkvquant.quantizers.options import QuantizerOptions
from rwkvquant.quantizers.shared.correction import balanced_target
from rwkvquant.quantizers.shared.factor import is_finite
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.recipes import Recipe, recipe_for
from rwkvquant.runtime.tokenizer import Tokenizer

IN_BLOCKS_OF_32 = {"q6_K": "q8_0", "q4_K": "q5_0", "q3_K": "q4_0"}  # llama.cpp's choice for other lengths of rows
CPU = torch.device("cpu")
CORRECTION = 0.5  # as in the method rwkvquant
CORRECTION_OPTIONS = QuantizerOptions(damping=0.05, act_order=True)
SHRINKAGE = 4.0  # by so much times width / tokens: few tokens have most of the gradient, and moments of few tokens have large errors


@dataclass(frozen=True)
class Rounded:
    """`data` uint8 (rows, bytes of a row) in the block type `kind`."""

    kind: str
    data: NDArray[Any]


def gguf_matrices(
    checkpoint: Checkpoint, kind: str, tokenizer: Tokenizer, calibration: CalibrationConfig | None = None, progress: Progress | None = None
) -> dict[str, Rounded]:
    """Projections, embedding and head by our names, in the types that llama-quantize gives them for `kind`, one of GGUF_TYPES.

    Raises CalibrationError for a text that is missing or too short, CheckpointError for inputs that overflow.
    """
    job = _Job(checkpoint, kind, progress or Progress())
    recipe = replace(recipe_for(QuantizeRequest(method="gptq", forward_dtype="float32")), fall_back=False, correction=CORRECTION)
    if calibration is not None:
        recipe = replace(recipe, calibration=replace(calibration, path=calibration.path or ""))
    found = calibrate(checkpoint.arch, recipe, documents_of(recipe), tokenizer, job.progress)
    assert found is not None, "the recipe of gptq reads text"
    weights = CheckpointSource(checkpoint)
    try:
        with tempfile.TemporaryDirectory() as scratch, torch.no_grad():
            original = weights.globals()
            gradients = _gradients_of_embeddings(checkpoint, recipe, found, Path(scratch), job.progress)
            outer = original | {name: job.embedding(name, original[name], G) for name, G in gradients.items()}
            text = calibration_run(checkpoint, recipe, found, Path(scratch), CPU, job.progress)
            text.embed(outer, original)
            for layer in range(checkpoint.dims.layers):
                block = weights.block(layer)
                quantised = block | job.block(layer, block, text.collect(block, layer))
                text.advance(quantised, block, layer)
            for spec in job.outside(Role.HEAD):
                job.head(spec, original[spec.name], text.collect_head(outer))
    finally:
        job.progress.end()
    return job.done


def _gradients_of_embeddings(
    checkpoint: Checkpoint, recipe: Recipe, text: Calibration, scratch: Path, progress: Progress
) -> dict[str, Tensor]:
    """By name, the second moments of the gradient by an embedding's rows: one pass forward and one backward over a part of the text."""
    layers = checkpoint.dims.layers
    progress.phase("embedding: reading the text")
    backward = backward_pass(checkpoint, recipe, text, scratch, CPU)
    backward.forward()
    for layer, *_ in backward.blocks():
        progress.phase(f"embedding: back through block {layer + 1} of {layers}")
    return {name: _shrunk(_checked(sums.H, name), sums.tokens) for name, sums in backward.embeddings().items()}


def _shrunk(G: Tensor, tokens: int) -> Tensor:
    """Moments (width, width) of so many tokens, shrunk towards equal weights of all columns."""
    G.diagonal().add_(SHRINKAGE * len(G) / tokens * G.diagonal().mean())
    return G


class _Job:
    def __init__(self, checkpoint: Checkpoint, kind: str, progress: Progress) -> None:
        self._architecture, self._kind, self.progress = checkpoint.architecture, kind, progress
        self._layers = checkpoint.dims.layers
        self.done: dict[str, Rounded] = {}

    def outside(self, role: Role) -> list[TensorSpec]:
        return [spec for spec in self._architecture.outside if spec.role is role]

    def embedding(self, name: str, W: Tensor, G: Tensor) -> Tensor:
        """An error e of a row costs e G e^T, as an error of a projection's row costs e H e^T."""
        self.progress.phase("embedding: quantising")
        return self._keep(name, gptq(W, G, self._grid(self._kind, W)))

    def block(self, layer: int, block: dict[str, Any], collected: Collected) -> dict[str, Tensor]:
        """The projections of a block, as they are after rounding."""
        self.progress.phase(f"block {layer + 1} of {self._layers}: quantising")
        after = {}
        for spec in self._architecture.table:
            if spec.role is not Role.PROJECTION:
                continue
            W, name = block[spec.name], self._architecture.full_name(layer, spec.name)
            H = _checked(collected.inputs[str(spec.input)].H, name)
            target, missing = W, collected.missing.get(name)
            if missing is not None:
                target = balanced_target(W, Hessian(H, W.dtype), missing.moment, CORRECTION, CORRECTION_OPTIONS)
            after[spec.name] = self._keep(name, gptq(target, H, self._grid(self._kind, W)))
        return after

    def head(self, spec: TensorSpec, W: Tensor, collected: Collected) -> None:
        kind = "q8_0" if self._kind == "q8_0" else "q6_K"
        self._keep(spec.name, gptq(W, _checked(collected.inputs[str(spec.input)].H, spec.name), self._grid(kind, W)))

    def _grid(self, kind: str, W: Tensor) -> BlockGrid:
        grid = GRIDS[kind]
        return grid if W.shape[1] % grid.block == 0 else GRIDS[IN_BLOCKS_OF_32[kind]]

    def _keep(self, name: str, codes: BlockCodes) -> Tensor:
        self.done[name] = Rounded(codes.grid.name, pack(codes))
        return codes.decode()


def _checked(H: Tensor, name: str) -> Tensor:
    if not is_finite(H):
        raise CheckpointError(f"the input of {name} overflows float32 on the calibration text: some weight before it is far too large")
    return H
