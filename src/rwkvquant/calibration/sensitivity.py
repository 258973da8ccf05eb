"""How sensitive the model's loss is to errors in each product's output, from one forward and one backward pass over a few rows of text.

    y_t (out,)  a product's output at token t      g_t = d (sum of all tokens' losses) / d y_t      E (out, in)  error of the weight

A small change of the outputs, d_t = E x_t, changes the model's distribution by KL = 1/2 E[(g . d)^2] nats per token to second
order, if g is the gradient of -log p of tokens drawn from the model itself (the Fisher matrix is the Hessian of KL).
Assume that rows are uncorrelated, and that a row's gradient is proportional to the token's whole gradient. Then

    KL = 1/2 sum_r f_r  E_r H_g E_r^T       f_r = mean_t g_tr^2       H_g = sum_t |g_t|^2 x_t x_t^T / sum_t |g_t|^2

so one number for each row and one matrix convert any weight error to nats per token, and errors in different tensors can be compared.
Plain moments of x in place of H_g are almost as good, but do not show that some tokens matter more.

Patches of an image have no answers of their own: classes come from the mean of all patches, so their gradients are alike, and errors that
patches have in common add up. So for images the error of an image is counted whole, and rows are not taken apart:

    KL = 1/2 mean over images of (sum over patches and rows of g_tr E_r . x_t)^2                 nats per image

That needs the gradient by the weights of each image, for the rows whose errors are asked for. On vrwkv-fashion this predicts what one
matrix of 3 bits costs with a correlation of .93 (of logarithms, over all matrices), the formula above .90; on vrwkv-camvid-seg .93 and
.84. The difference is in the last blocks, where the formula above is up to 46 times too small (docs/methods/vision.md).

A token whose gradient is far out is limited, in the sums of each matrix and where the gradient goes on to the block before: there the
second order means nothing (`limits` in statistics/gradients.py).

Gives up: correlations of tokens in a text. Before a saturating nonlinearity the estimate is several times too small, because the few
tokens that are not saturated have the large errors (docs/methods/selection.md compares prediction and measurement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Architecture, Role
from rwkvquant.calibration.batches import BACKWARD, FORWARD, LOGITS, fitting_batch
from rwkvquant.calibration.mapped import DoubleBuffer, checksum, flush, map_file
from rwkvquant.calibration.posteriors import Posterior, tokens
from rwkvquant.calibration.statistics import InputStatistics, Sensitivity, limits
from rwkvquant.errors import CheckpointError
from rwkvquant.models.layers import Weights
from rwkvquant.models.quantized import linear
from rwkvquant.models.rounded import RoundedMatrix
from rwkvquant.models.stages import Stages


@dataclass(frozen=True)
class ModelParts:
    """What the backward pass needs of a model: its parts, and functions that read its weights.

    `multiplied`: the weights of a block as its products take them; they may be rounded (models/rounded.py).
    """

    stages: Stages
    globals: Callable[[], Weights]  # embedding and head, read each time they are needed
    weights_of: Callable[[int], dict[str, Any]]
    architecture: Architecture
    layers: int
    width: int
    device: torch.device
    posterior: Posterior = tokens
    answers: int = 1  # that the head gives for each token: a patch has one for every pixel
    multiplied: Callable[[Weights], Weights] = dict
    rows_of_images: Callable[[tuple[int, ...]], Tensor] | None = None  # for images: a matrix's shape -> rows whose errors are asked for
    groups: int = 0  # of rows, whose own second moments are added up too

    def outputs(self, outer: Weights) -> int:
        """Numbers that the heads give for a token, about: to choose how many rows go through them at once."""
        of_heads = sum(len(outer[spec.name]) for spec in self.architecture.heads if spec.name in outer)
        return of_heads * self.answers or self.width  # without a head, the features


class Backward:
    """The inputs of every block on some rows of text, x (layers + 1, rows, length, width), and the gradients, in mapped files.

    `blocks` goes from the last block to the first. With the `state` after a block, another process can continue from there.
    """

    def __init__(self, parts: ModelParts, rows: NDArray[Any], batch: int, work_dir: Path, seed: int, length: int | None = None) -> None:
        """rows: tokens (rows, length), or images (rows, ...) of `length` patches."""
        self._parts, self._rows, self._batch, self._seed = parts, rows, batch, seed
        self._length = length or rows.shape[1]
        shape = (len(rows), self._length, parts.width)
        self._x = map_file(work_dir / "inputs.f32", (parts.layers + 1, *shape))
        self._gradient = DoubleBuffer(work_dir, "gradient", shape)  # of the loss, by the output of the current block
        self._carry = map_file(work_dir / "first.f32", shape) if parts.architecture.carry is not None else None
        self._carry_gradient = DoubleBuffer(work_dir, "first_gradient", shape) if parts.architecture.carry is not None else None
        self._limited = parts.rows_of_images is None and not parts.groups
        self._left: int | None = None  # how many blocks are left; None before `forward`
        self._sums: dict[str, int] = {}

    def forward(self) -> None:
        """Run the rows forward through the model, and back through its head. Raises CheckpointError for a block whose output overflows."""
        self._run()
        self._through_head()
        if self._carry_gradient is not None:
            self._carry_gradient.now[:] = 0
        self._left, self._sums = self._parts.layers, {}

    def blocks(self) -> Iterator[tuple[int, dict[str, Any], dict[str, Sensitivity]]]:
        """(layer, its weights, its matrices' sensitivities by key), for the blocks that are left."""
        assert self._left is not None, "forward comes first"
        for layer in reversed(range(self._left)):
            weights = self._parts.weights_of(layer)
            sensitivities: dict[str, Sensitivity] = {}
            matrices = self._parts.architecture.matrix_keys
            watched = {
                key: _Watched(W, key, sensitivities, self._parts) if isinstance(W, Tensor | RoundedMatrix) and key in matrices else W
                for key, W in self._parts.multiplied(weights).items()
            }
            for rows in self._batches(self._width, BACKWARD):
                self._through_block(layer, watched, rows)
            self._gradient.swap()
            if self._carry_gradient is not None and layer:
                self._carry_gradient.swap()
            self._left = layer
            yield layer, weights, sensitivities

    def embeddings(self) -> dict[str, InputStatistics]:
        """After all blocks: for each embedding, the second moments G (width, width) of the gradient by the row that a token reads.

        An error e (width,) of the rows costs 1/2 e G e^T nats per token, if the gradient does not depend on the token.
        """
        assert self._left == 0, "the blocks come first"
        outer = self._parts.globals()
        matrices = {spec.name: outer[spec.name] for spec in self._parts.architecture.outside if spec.role is Role.EMBEDDING}
        sums = {name: InputStatistics(W.shape[1], self._parts.device) for name, W in matrices.items()}
        for rows in self._batches(self._width, BACKWARD):
            tokens = torch.from_numpy(self._rows[rows]).to(self._parts.device)
            places = torch.arange(tokens.numel(), device=tokens.device).view_as(tokens)  # each token gets its own copy of its row
            read = {name: W[tokens.flatten()].requires_grad_(True) for name, W in matrices.items()}
            with torch.enable_grad():
                self._parts.stages.embed({**outer, **read}, places).backward(self._tensor(self._gradient.now[rows]))
            for name, each in read.items():
                assert each.grad is not None
                sums[name].add(each.grad)
        return sums

    def state(self) -> dict[str, Any]:
        if not self._sums:
            self._sums = {"x": flush(self._x)} | ({"carry": flush(self._carry)} if self._carry is not None else {})
        gradients = {name: buffer.state() for name, buffer in self._gradients()}
        return {"left": self._left, "sums": self._sums, "gradients": gradients}

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to what `state` noted; False if the files have changed since."""
        self._left, self._sums = int(state["left"]), dict(state["sums"])
        whole = [buffer.restore(state["gradients"][name]) for name, buffer in self._gradients()]
        return all(whole) and checksum(self._x) == self._sums["x"] and (self._carry is None or checksum(self._carry) == self._sums["carry"])

    def _gradients(self) -> Iterator[tuple[str, DoubleBuffer]]:
        yield "x", self._gradient
        if self._carry_gradient is not None:
            yield "carry", self._carry_gradient

    @torch.no_grad()
    def _run(self) -> None:
        outer = self._parts.globals()
        for rows in self._batches(self._width, FORWARD):
            chosen = torch.from_numpy(self._rows[rows]).to(self._parts.device)
            self._x[0, rows] = self._parts.stages.embed(outer, chosen).cpu().numpy()
        del outer
        for layer in range(self._parts.layers):
            weights = self._parts.multiplied(self._parts.weights_of(layer))
            for rows in self._batches(self._width, FORWARD):
                carry = self._tensor(self._carry[rows]) if layer and self._carry is not None else None
                x, _, carry = self._parts.stages.block(weights, self._tensor(self._x[layer, rows]), None, carry, None)
                if not bool(torch.isfinite(x).all()):
                    block = self._parts.architecture.full_name(layer, "*")
                    raise CheckpointError(
                        f"some weight of {block} is far too large: on the calibration text the block's output overflows float32. "
                        "Is the checkpoint damaged? Try --method rtn to quantise it anyway"
                    )
                self._x[layer + 1, rows] = x.cpu().numpy()
                if layer == 0 and self._carry is not None and carry is not None:
                    self._carry[rows] = carry.cpu().numpy()

    def _through_head(self) -> None:
        """Compute the gradient of -log p of answers drawn from the model, by the last block's output."""
        draws, outer = torch.Generator().manual_seed(self._seed), self._parts.globals()
        for rows in self._batches(self._parts.outputs(outer), LOGITS):
            x = self._tensor(self._x[self._parts.layers, rows]).requires_grad_(True)
            with torch.enable_grad():
                self._parts.posterior(self._parts.stages.head(outer, x, None), draws).backward()
            assert x.grad is not None
            self._gradient.now[rows] = x.grad.cpu().numpy()

    def _through_block(self, layer: int, watched: dict[str, Any], rows: slice) -> None:
        """One batch backward: adds to the matrices' sums, and computes the gradient by the block's input from that by its output."""
        x = self._tensor(self._x[layer, rows]).requires_grad_(True)
        carry = self._tensor(self._carry[rows]).requires_grad_(True) if layer and self._carry is not None else None
        with torch.enable_grad():
            y, _, passed_on = self._parts.stages.block(watched, x, None, carry, None)
            ends, gradients = [y], [self._tensor(self._gradient.now[rows])]
            if passed_on is not None and self._carry_gradient is not None:
                ends.append(passed_on)
                gradients.append(self._tensor(self._carry_gradient.now[rows]))
            # The gradient of this sum by each end is its own; to hand gradients over, torch would import SymPy, for over a second.
            torch.stack([(end * gradient).sum() for end, gradient in zip(ends, gradients, strict=True)]).sum().backward()
        assert x.grad is not None
        self._gradient.next[rows] = self._within_limits(x.grad).cpu().numpy()
        if carry is not None and self._carry_gradient is not None:
            assert carry.grad is not None
            self._carry_gradient.next[rows] = self._within_limits(carry.grad).cpu().numpy()

    def _within_limits(self, gradient: Tensor) -> Tensor:
        """(rows, length, width) -> the same, with the gradients of tokens that are far out made smaller (statistics/gradients.py)."""
        return gradient * limits(gradient).sqrt().unsqueeze(-1) if self._limited else gradient

    @property
    def _width(self) -> int:
        return self._parts.width

    def _batches(self, width: int, most: int) -> Iterator[slice]:
        """Slices of rows, as many rows at once as activations of `width` numbers a token allow."""
        rows = len(self._rows)
        batch = fitting_batch(self._batch, self._length * width, most)
        for start in range(0, rows, batch):
            yield slice(start, min(start + batch, rows))

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(values).clone().to(self._parts.device)


class _Watched:
    """A matrix that records its inputs, and the gradients by its outputs, in `sensitivities[key]`."""

    def __init__(
        self,
        W: Tensor | RoundedMatrix,
        key: str,
        sensitivities: dict[str, Sensitivity],
        parts: ModelParts,
    ) -> None:
        self._W, self._key, self._sensitivities, self._parts = W, key, sensitivities, parts

    def product(self, x: Tensor) -> Tensor:
        y = linear(x, self._W)
        inputs = x.detach()
        y.register_hook(lambda g: self._add(inputs, g))
        return y

    def _add(self, x: Tensor, g: Tensor) -> None:
        if self._key not in self._sensitivities:
            out, width = self._W.shape
            rows = self._parts.rows_of_images(self._W.shape) if self._parts.rows_of_images else None
            rounded = isinstance(self._W, RoundedMatrix)
            self._sensitivities[self._key] = Sensitivity(out, width, x.device, rows, self._parts.groups, rounded)
        self._sensitivities[self._key].add(x, g)
