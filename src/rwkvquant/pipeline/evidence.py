"""What a rule needs to know of the matrices: what pass 1 has found, and what it leaves out until a rule asks for it.

Left out are proxies of large matrices, which take long to sort, and losses that only a selector asks for: plain rounding errors, and the
KL divergence of the model with one quantised matrix (kl_alone.py). plan.json keeps them, so another budget need not measure them again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.kl_alone import measure_alone
from rwkvquant.pipeline.matrices import rounding_errors
from rwkvquant.pipeline.measure import proxies_of
from rwkvquant.pipeline.plan_file import Candidate, Measured
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Chooser, Recipe
from rwkvquant.selection.curves import Part, between, neighbours
from rwkvquant.selection.selectors import SELECTORS, Evidence

Model = Mapping[str, Measured]


@dataclass(frozen=True)
class Job:
    """What measuring needs."""

    checkpoint: Checkpoint
    recipe: Recipe
    text: Calibration | None
    device: torch.device
    progress: Progress


KINDS = ("uniform", "codebook")


def completed(
    checkpoint: Checkpoint, recipe: Recipe, measured: Model, text: Calibration | None, device: torch.device, progress: Progress
) -> Model:
    """With everything that the recipe's rule needs. Raises ConfigError for a selector that cannot measure this model."""
    chooser = recipe.chooser
    if chooser.rule in ("algorithm1", "fixed") or (chooser.rule == "share" and "proxy" in SELECTORS[chooser.selector].reads):
        measured = _with_proxies(checkpoint, measured)
    if chooser.rule == "share" and (measure := SELECTORS[chooser.selector].measures):
        measured = MEASURES[measure](Job(checkpoint, recipe, text, device, progress), measured)
    return measured


def evidence_of(one: Measured, chooser: Chooser) -> Evidence:
    """What a selector sees of a matrix that is `completed`: losses at the budget's bits, by those candidates whose losses are known."""
    read = one.proxies.get(chooser.proxy, {})
    statistics = {**read.get("statistics", {})}
    if read:
        statistics |= {"coarse": read["coarse"], "fine": read["fine"][chooser.order - 2]}
    parts = {kind: near_budget(one, kind, chooser.bits) for kind in KINDS}
    losses = {}
    for measure, loss_of in LOSSES.items():
        sides = [_loss(of_kind(one, kind), parts[kind], loss_of) for kind in KINDS]
        if None not in sides:
            losses[measure] = sides[0], sides[1]
    return Evidence(one.weights, statistics, losses)  # type: ignore[arg-type]


def of_kind(one: Measured, kind: str) -> list[Candidate]:
    """The candidates of a kind; all of them if there are none, which --tensor-bits can cause."""
    return [candidate for candidate in one.candidates if candidate.setting.kind == kind] or list(one.candidates)


def near_budget(one: Measured, kind: str, bits: float) -> list[Part]:
    """Which of `of_kind` tell what the kind loses at `bits` per weight of this matrix."""
    return neighbours([(c.stored_bytes, c.loss) for c in of_kind(one, kind)], bits * one.weights / 8)


LOSSES: dict[str, Callable[[Candidate], float | None]] = {
    "mse": lambda candidate: candidate.mse,
    "hessian": lambda candidate: candidate.relative_error,
    "nats": lambda candidate: candidate.loss,
    "kl": lambda candidate: candidate.kl,
}


def _loss(candidates: Sequence[Candidate], parts: Sequence[Part], loss_of: Callable[[Candidate], float | None]) -> float | None:
    """None where it was not measured."""
    losses = {index: loss_of(candidates[index]) for index, _ in parts}
    known = {index: loss for index, loss in losses.items() if loss is not None}
    if len(known) < len(losses):
        return None
    return between(parts, [known.get(index, 0.0) for index in range(len(candidates))])


def _with_proxies(checkpoint: Checkpoint, measured: Model) -> Model:
    """Also where a plan of an earlier version has the two proxies alone."""
    lacking = [name for name, one in measured.items() if not all("statistics" in read for read in one.proxies.values()) or not one.proxies]
    dtypes = {matrix.name: checkpoint.tensors[matrix.source].dtype for matrix in checkpoint.logical_matrices()} if lacking else {}
    return {**measured} | {
        name: replace(measured[name], proxies=proxies_of(checkpoint.read_matrix(name), dtypes[name])) for name in lacking
    }


def _with_plain_errors(job: Job, measured: Model) -> Model:
    """Every candidate's |W - Q|^2 / |W|^2, rounded without error feedback, of all rows."""
    job.progress.phase("plain rounding errors", steps=len(measured))
    found = {}
    for name, one in measured.items():
        if any(candidate.mse is None for candidate in one.candidates):
            W = torch.from_numpy(job.checkpoint.read_matrix(name))
            energy = float(W.double().square().sum()) or 1.0
            errors = rounding_errors([c.setting for c in one.candidates], job.recipe.quantizer, W)
            one = replace(one, candidates=tuple(replace(c, mse=e / energy) for c, e in zip(one.candidates, errors, strict=True)))
        found[name] = one
        job.progress.step()
    return found


def _with_kl(job: Job, measured: Model) -> Model:
    """The KL of the candidates that are nearest to the budget."""
    wanted: dict[str, list[Candidate]] = {}
    for name, one in measured.items():
        near = [of_kind(one, kind)[index] for kind in KINDS for index, _ in near_budget(one, kind, job.recipe.chooser.bits)]
        if lacking := [candidate for candidate in dict.fromkeys(near) if candidate.kl is None]:
            wanted[name] = lacking
    settings = {name: [candidate.setting for candidate in each] for name, each in wanted.items()}
    if not settings:
        return measured
    kl = measure_alone(job.checkpoint, job.recipe, job.text, settings, job.device, job.progress)
    found = {**measured}
    for name, each in settings.items():
        known = dict(zip(each, kl[name], strict=True))
        candidates = tuple(replace(c, kl=known.get(c.setting, c.kl)) for c in measured[name].candidates)
        found[name] = replace(measured[name], candidates=candidates)
    return found


MEASURES: dict[str, Callable[[Job, Model], Model]] = {"mse": _with_plain_errors, "kl": _with_kl}
