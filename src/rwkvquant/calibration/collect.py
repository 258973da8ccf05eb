"""Calibration block by block: one block's weights and one batch's activations are in memory, the hidden states of all rows on disk.

    stream = HiddenStates(work_dir, rows, length, width, with_carry=architecture.carry is not None)
    stream.fill(lambda rows: model.embed(weights, tokens[rows]), batch)                  # what block 0 sees
    for layer in range(layers):
        statistics = collect_block(model.block, weights, architecture, stream, batch, rows)
        ... quantise the block's matrices ...
        advance(model.block, quantised_weights, stream, batch)                           # what the next block sees, errors included
    statistics = collect_head(model.head, weights, architecture, stream, batch)

`model` is the forward of an architecture, such as models/rwkv7.py, in the form of models/stages.py. A row is a text, which starts from the
state before the first token, or an image.
A second stream, of the full-precision model, runs next to the first by `ReferenceRun`, for quantizers/shared/correction.py and drift.py.

Hidden states are in two files that change places (mapped.py): a block's output never overwrites its input. So a run that is killed at
any moment continues from the last noted `state`. Gives up: this needs twice the room on the disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.architectures import Architecture
from rwkvquant.calibration.mapped import DoubleBuffer, checksum, flush, map_file
from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.models.layers import Tap, Weights
from rwkvquant.models.rounded import RoundedMatrix

Block = Callable[[Weights, Tensor, Any, Tensor | None, Tap | None], tuple[Tensor, Any, Tensor | None]]  # of models/stages.py, as Head
Head = Callable[[Weights, Tensor, Tap | None], Any]


class HiddenStates:
    """The input of the current block for every calibration row: x (rows, length, width) float32, in two mapped files in turn.

    A carry (RWKV-7's v_first) is in another file of the same size, once the first block's `advance` has run.
    """

    def __init__(
        self,
        work_dir: Path | str,
        rows: int,
        length: int,
        width: int,
        with_carry: bool = False,
        device: torch.device | str = "cpu",
        name: str = "hidden",
    ) -> None:
        """`name` starts the files' names, so that two streams can share a folder. Raises CalibrationError where they do not fit there."""
        self.shape = (rows, length, width)
        self.device = torch.device(device)
        self._x = DoubleBuffer(Path(work_dir), name, self.shape)
        self._carry = map_file(Path(work_dir) / f"{name}_carry.f32", self.shape) if with_carry else None
        self._carry_sum: int | None = None
        self.carried = False  # True once the carry of all rows is there

    def fill(self, embed: Callable[[slice], Tensor], batch: int) -> None:
        """Set the input of block 0: embed(rows) gives (batch, length, width) for a slice of rows."""
        self.carried, self._carry_sum = False, None
        with torch.no_grad():
            for rows in self.batches(batch):
                self._x.now[rows] = embed(rows).float().cpu().numpy()

    def batches(self, batch: int, rows: range | None = None) -> Iterator[slice]:
        """All rows, or those of a range of step 1, `batch` at a time."""
        rows = range(self.shape[0]) if rows is None else rows
        for start in range(rows.start, rows.stop, batch):
            yield slice(start, min(start + batch, rows.stop))

    def read(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Copies of x and the carry, each (batch, length, width) float32 on the device; no carry before the first block."""
        carry = self._tensor(self._carry[rows]) if self._carry is not None and self.carried else None
        return self._tensor(self._x.now[rows]), carry

    def write(self, rows: slice, x: Tensor, carry: Tensor | None) -> None:
        """Store what the next block will see. The carry is written once, as later blocks only pass it on."""
        self._x.next[rows] = x.float().cpu().numpy()
        if carry is not None and not self.carried:
            assert self._carry is not None, "the block has a carry, but these hidden states were made without"
            self._carry[rows] = carry.float().cpu().numpy()

    def next_block(self) -> None:
        """Go to the next block, after all rows are written."""
        self._x.swap()
        self.carried = True

    def state(self) -> dict[str, Any]:
        """Write what is complete to the disk, and give a note of it, for `restore` in another process on the same files."""
        if self._carry is not None and self.carried and self._carry_sum is None:
            self._carry_sum = flush(self._carry)
        return {"x": self._x.state(), "carried": self.carried, "carry_crc32": self._carry_sum}

    def restore(self, state: dict[str, Any]) -> bool:
        """Go back to what `state` noted; False if the files have changed since."""
        self.carried, self._carry_sum = bool(state["carried"]), state["carry_crc32"]
        whole = self._carry is None or not self.carried or checksum(self._carry) == self._carry_sum
        return self._x.restore(state["x"]) and whole

    def _tensor(self, values: NDArray[np.float32]) -> Tensor:
        # A copy in torch's own memory has the same alignment in every process, so sums are the same.
        return torch.from_numpy(values).clone().to(self.device)


@torch.no_grad()
def collect_block(
    block: Block,
    weights: Weights,
    architecture: Architecture,
    stream: HiddenStates,
    batch: int,
    rows: range | None = None,
    tap: Tap | None = None,
    reference: ReferenceRun | None = None,
) -> dict[str, InputStatistics]:
    """Statistics of the block's product inputs, by name, over all rows or some, `batch` rows at a time. The hidden states stay as they are.

    A sliced input, (slices, batch, length, width), gives "<name>.0", "<name>.1" ... A second `tap` gets the same activations, and
    `reference` runs the same rows through the full-precision block. If products are computed in bfloat16, so are the sums.
    """
    collector = Collector(architecture.product_inputs, any(isinstance(W, RoundedMatrix) for W in weights.values()))
    taps: list[Tap] = [each for each in (collector, tap, reference) if each is not None]

    def hear(name: str, x: Tensor) -> None:
        for each in taps:
            each(name, x)

    key = architecture.last_product
    last = weights[key]
    own = {**weights, key: last[:1]} if isinstance(last, Tensor | RoundedMatrix) else weights  # the block's output is not needed
    for chosen in stream.batches(batch, rows):
        x, carry = stream.read(chosen)
        block(own, x, None, carry, hear)
        if reference is not None:
            reference.run(chosen, x)
    return collector.statistics


class Cross(Protocol):
    """An object that adds up over two streams: those of statistics/cross.py and statistics/drift.py."""

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None: ...


class ReferenceRun:
    """Runs the full-precision block on the same rows as `collect_block`, and adds x' - x, h' - h and h to `sums`, by product input h.

    An input that comes in slices has one of `sums` for each, "<name>.0" and so on. It also writes its output to its hidden states,
    `reference`, so that no row is run twice. `advance` runs the other rows.
    """

    def __init__(self, block: Block, weights: Weights, sums: Mapping[str, Cross], reference: HiddenStates) -> None:
        self._block, self._weights, self._sums, self._reference = block, weights, sums, reference
        self._heard: dict[str, Tensor] = {}

    def __call__(self, name: str, x: Tensor) -> None:
        for key, part in _parts(name, x, f"{name}.0" in self._sums):
            if key in self._sums:
                self._heard[key] = part

    def run(self, rows: slice, x: Tensor) -> None:
        """To be called after the quantised model's block has run on these rows; x was its input."""
        quantised, self._heard = self._heard, {}
        full_x, carry = self._reference.read(rows)
        y, _, carry = self._block(self._weights, full_x, None, carry, self)
        for name, each in self._sums.items():
            each.add(full_x - x, self._heard[name] - quantised[name], quantised[name])
        self._reference.write(rows, y, carry)


@torch.no_grad()
def collect_head(
    head: Head, weights: Weights, architecture: Architecture, stream: HiddenStates, batch: int, rows: range | None = None
) -> dict[str, InputStatistics]:
    """Statistics of the inputs of the heads, after the last block. `weights` has the heads that are optional."""
    tap = Collector({spec.input: False for spec in architecture.heads if spec.input is not None})
    row = torch.zeros(1, stream.shape[2], device=stream.device)
    large = [spec for spec in architecture.heads if not spec.optional]  # the input of an optional one may come from another
    one_row = {**weights, **{spec.name: row for spec in large}}  # only the input is needed, no logits
    for chosen in stream.batches(batch, rows):
        head(one_row, stream.read(chosen)[0], tap)
    return tap.statistics


@torch.no_grad()
def advance(block: Block, weights: Weights, stream: HiddenStates, batch: int, rows: range | None = None) -> None:
    """Run all rows, or those that have not been run yet, through the quantised block; its output becomes the hidden states."""
    for chosen in stream.batches(batch, rows):
        x, carry = stream.read(chosen)
        x, _, carry = block(weights, x, None, carry, None)
        stream.write(chosen, x, carry)
    stream.next_block()


def _parts(name: str, x: Tensor, sliced: bool) -> list[tuple[str, Tensor]]:
    """An activation by name; of one in slices, each slice by its own."""
    return [(f"{name}.{i}", x[i]) for i in range(len(x))] if sliced else [(name, x)]


class Collector:
    """A tap that adds the named activations, `rounded` to bfloat16 or not, to statistics, and does not keep their values."""

    def __init__(self, inputs: dict[str, bool], rounded: bool = False) -> None:
        self.inputs, self._rounded = inputs, rounded
        self.statistics: dict[str, InputStatistics] = {}

    def __call__(self, name: str, x: Tensor) -> None:
        if name not in self.inputs:
            return
        for key, part in _parts(name, x, self.inputs[name]):
            if key not in self.statistics:
                self.statistics[key] = InputStatistics(part.shape[-1], part.device, self._rounded)
            self.statistics[key].add(part)
