"""The calibration, text or images, at the input of the current block of pass 2: one stream of hidden states, or two where errors are
corrected.

Rows come in two parts: those that the quantisers see, and those kept out, on which their results are tested.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from rwkvquant.calibration.batches import FORWARD, fitting_batch
from rwkvquant.calibration.collect import HiddenStates, ReferenceRun, advance, collect_block, collect_head
from rwkvquant.calibration.norms import fit_norm
from rwkvquant.calibration.partners import PartnerTap
from rwkvquant.calibration.statistics import CrossStatistics, DriftStatistics, Importance
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.models import QuantizedMatrix
from rwkvquant.pipeline.allocation import give_back
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.forward import multiplied
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tensors import Collected
from rwkvquant.recipes import Recipe

Weights = Mapping[str, Any]


class NoRun:
    """The run of recipes that read nothing: there is nothing to collect."""

    fits_norms = False  # whether norms of a block are fitted after its other tensors are quantised

    def embed(self, outer: Weights, original: Weights) -> None: ...

    def state(self) -> dict[str, Any] | None:
        return None

    def restore(self, state: Any) -> bool:
        return True

    def collect(self, block: Weights, layer: int) -> Collected:
        return Collected()

    def fitted_norms(self, quantised: Weights, block: Weights, layer: int) -> dict[str, torch.Tensor]:
        return {}

    def advance(self, quantised: Weights, block: Weights, layer: int) -> None: ...

    def collect_head(self, outer: Weights) -> Collected:
        return Collected()


class CalibrationRun(NoRun):
    """The rows of `calibration` at the input of the current block. Every phase is reported to `progress`."""

    def __init__(
        self, checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration, work_dir: Path, device: torch.device, progress: Progress
    ) -> None:
        count, seen = len(calibration.rows), len(calibration.seen)
        self._architecture, self._recipe, self._rows = checkpoint.architecture, recipe, calibration.rows
        self._progress, self._layers = progress, checkpoint.dims.layers
        self._model, self._device, self._kind = calibration.stages, device, calibration.kind
        self._batch = fitting_batch(recipe.calibration.batch, calibration.length * checkpoint.dims.width, FORWARD)
        self._seen, self._kept_out = range(seen), range(seen, count)
        self._multiplied = multiplied(recipe, self._architecture)

        def stream(name: str) -> HiddenStates:
            carries = self._architecture.carry is not None
            return HiddenStates(work_dir, count, calibration.length, checkpoint.dims.width, carries, device, name)

        self._stream = stream("hidden")
        self._drift = recipe.correction > 0 and recipe.reads_drift  # every product corrects the errors before it, by its quantiser
        # A product before a norm does not add to the residual stream, so it cannot correct it: the norm does.
        post_norm = checkpoint.image is not None and checkpoint.image.post_norm
        self.fits_norms = recipe.correction > 0 and post_norm and not self._drift
        self._reference = stream("reference") if recipe.correction > 0 else None  # as the full-precision model sees the rows

    def embed(self, outer: Weights, original: Weights) -> None:
        """Start before block 0, with the embedding as quantised and as it was."""
        self._progress.phase(f"embedding the calibration {self._kind}")
        for stream, weights in ((self._stream, outer), (self._reference, original)):
            if stream is not None:
                stream.fill(lambda rows, w=weights: self._model.embed(w, self._chosen(rows)), self._batch)  # type: ignore[misc]

    def state(self) -> dict[str, Any]:
        """For the journal: which hidden states the next block gets. They are on the disk then."""
        return {name: stream.state() for name, stream in self._streams()}

    def restore(self, state: dict[str, Any]) -> bool:
        """Continue with that block. False if the hidden states on the disk are not those that were noted."""
        return all([stream.restore(state[name]) for name, stream in self._streams()])

    def _streams(self) -> Iterator[tuple[str, HiddenStates]]:
        yield "hidden", self._stream
        if self._reference is not None:
            yield "reference", self._reference

    def collect(self, block: Weights, layer: int) -> Collected:
        """What the quantisers need. `block`: its original weights. Once a block: it also runs the full-precision stream through it."""
        self._progress.phase(f"block {layer + 1} of {self._layers}: reading the {self._kind}")
        make, reading, run = self._model.block, self._recipe.vector_weights, self._multiplied(block)
        tap = PartnerTap(self._architecture.table, lambda width: Importance(width, reading)) if reading != "none" else None
        writers = self._architecture.residual_writers
        sums: dict[str, CrossStatistics] = {}
        drift: dict[str, DriftStatistics] = {}
        reference = None
        if (
            self._reference is not None and layer > 0 and not self.fits_norms
        ):  # before the first block both streams differ by the embedding's rounding alone
            if self._drift:
                drift = {name: DriftStatistics() for name in self._architecture.input_parts}
            else:
                sums = {name: CrossStatistics(run[key]) for key, name in writers.items()}
            reference = ReferenceRun(make, run, {**sums, **drift}, self._reference)
        seen = collect_block(make, run, self._architecture, self._stream, self._batch, self._seen, tap, reference)
        tests = {}
        # With a drift, W is not what codes should aim at; with guides, plain second moments are not what they lose by.
        if self._kept_out and self._recipe.fall_back and not self._drift and not self._recipe.guided:
            tests = collect_block(make, run, self._architecture, self._stream, self._batch, self._kept_out)
        missing = {self._architecture.full_name(layer, key): sums[name] for key, name in writers.items() if sums}
        return Collected(seen, tests, tap.sums if tap else {}, missing, drift)

    def fitted_norms(self, quantised: Weights, block: Weights, layer: int) -> dict[str, torch.Tensor]:
        """Weights and biases of norms that follow the block's mixes, by key. `quantised` has all other tensors as they will be stored."""
        assert self.fits_norms and self._reference is not None
        self._progress.phase(f"block {layer + 1} of {self._layers}: fitting norms")
        weights, original = _decoded(quantised), self._multiplied(block)
        fitted: dict[str, torch.Tensor] = {}
        for norm, scale in self._architecture.mix_norms.items():
            streams = self._stream, self._reference
            run = self._multiplied(weights | fitted)
            fitted |= fit_norm(self._model.block, run, original, norm, scale, streams, self._batch, self._seen, self._recipe.correction)
        return fitted

    def advance(self, quantised: Weights, block: Weights, layer: int) -> None:
        """Run the rows through the quantised block, for the next one. Its codes are decoded once for all batches."""
        give_back()
        self._progress.phase(f"block {layer + 1} of {self._layers}: computing outputs")
        advance(self._model.block, self._multiplied(_decoded(quantised)), self._stream, self._batch)
        if self._reference is not None:  # `collect` has run the rows that it saw, except in the first block and where norms are fitted
            rows = self._kept_out if layer > 0 and not self.fits_norms else None
            advance(self._model.block, self._multiplied(block), self._reference, self._batch, rows)

    def collect_head(self, outer: Weights) -> Collected:
        return Collected(collect_head(self._model.head, outer, self._architecture, self._stream, self._batch, self._seen))

    def _chosen(self, rows: slice) -> torch.Tensor:
        return torch.from_numpy(self._rows[rows]).to(self._device)


def _decoded(weights: Weights) -> dict[str, Any]:
    return {key: W.decode() if isinstance(W, QuantizedMatrix) else W for key, W in weights.items()}


def calibration_run(
    checkpoint: Checkpoint, recipe: Recipe, calibration: Calibration | None, work_dir: Path, device: torch.device, progress: Progress
) -> NoRun:
    return NoRun() if calibration is None else CalibrationRun(checkpoint, recipe, calibration, work_dir, device, progress)
