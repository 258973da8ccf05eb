"""How much the model's loss minds an error in each product's output: one pass forward and one backward over a few rows of text.

    y_t (out,)  a product's output at token t      g_t = d (sum of all tokens' losses) / d y_t      E (out, in)  error of the weight

A small change of the outputs, d_t = E x_t, changes the model's distribution by KL = 1/2 E[(g . d)^2] nats per token to second
order, if g is the gradient of -log p of tokens drawn from the model itself (the Fisher matrix is the Hessian of KL).
Taking rows as uncorrelated, and a row's gradient as in proportion to all of its token's,

    KL = 1/2 sum_r f_r  E_r H_g E_r^T       f_r = mean_t g_tr^2       H_g = sum_t |g_t|^2 x_t x_t^T / sum_t |g_t|^2

so one number a row and one matrix turn any weight error into nats per token, and errors in different tensors can be compared.
Plain moments of x in place of H_g would do almost as well; they miss that some tokens matter more.

Gives up: what is correlated. In front of a saturating nonlinearity the estimate is several times too small, as the few tokens that
are not saturated have the large errors (docs/methods/selection.md shows prediction beside measurement).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rwkvquant.calibration.collect import Block, Head, map_new
from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.errors import CheckpointError
from rwkvquant.models.layers import Weights


class Sensitivity:
    """What pass 1 learns of one matrix (out, in): f of its rows, H_g, and the plain second moments of its inputs."""

    def __init__(self, out: int, width: int, device: torch.device | str = "cpu") -> None:
        self.inputs = InputStatistics(width, device)
        self._squares = torch.zeros(out, dtype=torch.float64, device=device)
        self._weighted = torch.zeros(width, width, dtype=torch.float64, device=device)

    def add(self, x: Tensor, g: Tensor) -> None:
        """x (tokens, in) and g (tokens, out): inputs, and the gradient by outputs."""
        self.inputs.add(x)
        squares = g.square()
        self._squares += squares.sum(0, dtype=torch.float64)
        self._weighted += (x * squares.sum(1, keepdim=True)).T @ x

    @property
    def rows(self) -> Tensor:
        """f (out,) float64."""
        return self._squares / self.inputs.tokens

    def loss(self, E: Tensor, rows: Tensor) -> float:
        """E (chosen rows, in), their indices -> their share of the KL divergence, in nats per token."""
        total = float(self._squares.sum())
        if total == 0:
            return 0.0  # no gradient arrives: the model does not look at this product
        E = E.double()
        return 0.5 * float((self.rows[rows] * ((E @ self._weighted) * E).sum(1)).sum()) / total


@dataclass
class BlockInputs:
    """The inputs of every block on some rows of text, in mapped files: x (layers + 1, rows, length, width), and the carry."""

    x: NDArray[np.float32]
    carry: NDArray[np.float32] | None = None
    gradient: NDArray[np.float32] = field(init=False)
    carry_gradient: NDArray[np.float32] | None = field(init=False, default=None)


@dataclass(frozen=True)
class Story:
    """What the backward pass asks of a model: its parts, and how to read the weights of a block anew."""

    embed: Callable[[Tensor], Tensor]
    block: Block
    head: Head
    globals: Weights
    weights_of: Callable[[int], dict[str, Any]]
    layers: int
    width: int
    carries: bool
    device: torch.device


def block_sensitivities(
    story: Story, tokens: NDArray[np.int64], batch: int, work_dir: Path, seed: int
) -> Iterator[tuple[int, dict[str, Any], dict[str, Sensitivity]]]:
    """tokens (rows, length) -> (layer, its weights, its matrices' sensitivities by key), from the last block to the first.

    Raises CheckpointError for a block whose output overflows.
    """
    seen = _forward(story, tokens, batch, work_dir)
    _through_head(story, seen, tokens.shape, batch, seed)
    for layer in reversed(range(story.layers)):
        weights = story.weights_of(layer)
        found: dict[str, Sensitivity] = {}
        watched = {key: _Watched(W, key, found) if isinstance(W, Tensor) and _is_matrix(key, W) else W for key, W in weights.items()}
        for rows in _batches(len(tokens), batch):
            _through_block(story, layer, watched, seen, rows)
        yield layer, weights, found


def _is_matrix(key: str, W: Tensor) -> bool:
    return W.dim() == 2 and key not in ("att.r_k", "att.time_faaaa")


class _Watched:
    """A matrix that keeps account of its inputs and of the gradients of its outputs."""

    def __init__(self, W: Tensor, key: str, found: dict[str, Sensitivity]) -> None:
        self._W, self._key, self._found = W, key, found

    def product(self, x: Tensor) -> Tensor:
        y = functional.linear(x, self._W)
        inputs = x.detach().reshape(-1, x.shape[-1])
        y.register_hook(lambda g: self._add(inputs, g.reshape(-1, g.shape[-1])))
        return y

    def _add(self, x: Tensor, g: Tensor) -> None:
        if self._key not in self._found:
            out, width = self._W.shape
            self._found[self._key] = Sensitivity(out, width, x.device)
        self._found[self._key].add(x, g)


@torch.no_grad()
def _forward(story: Story, tokens: NDArray[np.int64], batch: int, work_dir: Path) -> BlockInputs:
    shape = (*tokens.shape, story.width)
    seen = BlockInputs(map_new(work_dir / "inputs.f32", (story.layers + 1, *shape)))
    seen.gradient = map_new(work_dir / "gradient.f32", shape)
    if story.carries:
        seen.carry, seen.carry_gradient = (map_new(work_dir / name, shape) for name in ("first.f32", "first_gradient.f32"))
    for rows in _batches(len(tokens), batch):
        seen.x[0, rows] = story.embed(torch.from_numpy(tokens[rows]).to(story.device)).cpu().numpy()
    for layer in range(story.layers):
        weights = story.weights_of(layer)
        for rows in _batches(len(tokens), batch):
            carry = _tensor(seen.carry[rows], story) if layer and seen.carry is not None else None
            x, _, carry = story.block(weights, _tensor(seen.x[layer, rows], story), None, carry, None)
            if not bool(torch.isfinite(x).all()):
                raise CheckpointError(
                    f"some weight of blocks.{layer}.* is far too large: on the calibration text the block's output overflows float32. "
                    "Is the checkpoint damaged? Try --method rtn to quantise it all the same"
                )
            seen.x[layer + 1, rows] = x.cpu().numpy()
            if layer == 0 and seen.carry is not None and carry is not None:
                seen.carry[rows] = carry.cpu().numpy()
    return seen


def _through_head(story: Story, seen: BlockInputs, shape: tuple[int, ...], batch: int, seed: int) -> None:
    """The gradient of -log p of tokens drawn from the model, by the last block's output."""
    draws = torch.Generator().manual_seed(seed)
    for rows in _batches(shape[0], batch):
        x = _tensor(seen.x[story.layers, rows], story).requires_grad_(True)
        with torch.enable_grad():
            log_p = torch.log_softmax(story.head(story.globals, x, None), -1).flatten(0, -2)
            drawn = torch.multinomial(log_p.detach().exp().cpu(), 1, generator=draws).to(log_p.device)
            (-log_p.gather(1, drawn)).sum().backward()
        assert x.grad is not None
        seen.gradient[rows] = x.grad.cpu().numpy()


def _through_block(story: Story, layer: int, watched: dict[str, Any], seen: BlockInputs, rows: slice) -> None:
    """One batch backward: adds to the watched matrices, and turns the gradient by the block's output into that by its input."""
    x = _tensor(seen.x[layer, rows], story).requires_grad_(True)
    carry = _tensor(seen.carry[rows], story).requires_grad_(True) if layer and seen.carry is not None else None
    with torch.enable_grad():
        y, _, passed_on = story.block(watched, x, None, carry, None)
        ends, gradients = [y], [_tensor(seen.gradient[rows], story)]
        if passed_on is not None and seen.carry_gradient is not None:
            ends.append(passed_on)
            gradients.append(_tensor(seen.carry_gradient[rows], story))
        torch.autograd.backward(ends, gradients)
    assert x.grad is not None
    seen.gradient[rows] = x.grad.cpu().numpy()
    if carry is not None and seen.carry_gradient is not None:
        assert carry.grad is not None
        seen.carry_gradient[rows] = carry.grad.cpu().numpy()


def _batches(count: int, batch: int) -> Iterator[slice]:
    for start in range(0, count, batch):
        yield slice(start, min(start + batch, count))


def _tensor(values: NDArray[np.float32], story: Story) -> Tensor:
    return torch.from_numpy(np.array(values)).to(story.device)
