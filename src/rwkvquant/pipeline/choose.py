"""Which setting each matrix gets: from the losses or the proxies of pass 1 if there was one, else from rounding errors alone.

The rule of a hybrid gives every tensor a kind (uniform or codebook); the rule "error" allows both. A budget is then spent among the
candidates that are left, so that rules can be compared at the same true bits. Recipes without a budget, such as `paper` and `readme`,
take the candidate of least loss, and the bits follow from that.

Without pass 1 the error of a candidate is estimated by rounding a sample of rows, relative to their energy and weighted by the
number of weights: to first order the loss is a sum over matrices of sensitivity times relative error (the linearity theorem of
HIGGS, arXiv:2411.17525), and without calibration all sensitivities are taken as equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.formats.table import transform_bytes
from rwkvquant.pipeline.evidence import evidence_of
from rwkvquant.pipeline.matrices import rounding_errors
from rwkvquant.pipeline.plan_file import Measured
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import allowed_settings, quantized_shapes
from rwkvquant.pipeline.transforms import Transforms, for_setting
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.recipes import Chooser, Recipe, Setting
from rwkvquant.selection.algorithm1 import Thresholds, algorithm1, choose
from rwkvquant.selection.policy import fit_budget
from rwkvquant.selection.selectors import SELECTORS
from rwkvquant.selection.share import by_share
from rwkvquant.transforms import NONE

SAMPLED_ROWS = 16
INCOHERENT = 8.0  # the authors' command: above it, a tensor gets a codebook

Kinds = dict[str, str]  # name -> "uniform" | "codebook"
Losses = dict[str, list[tuple[int, float, Setting]]]  # name -> (stored bytes, loss, setting) of each candidate


def choose_settings(
    checkpoint: Checkpoint, recipe: Recipe, measured: Mapping[str, Measured] | None, transforms: Transforms, progress: Progress
) -> dict[str, Setting]:
    """One setting for each projection and LoRA factor, by logical name; `measured`: the results of pass 1, if there was one, and what the
    rule needs beyond them (evidence.py).

    Raises ConfigError if no choice meets a budget that the user gave. For a default budget, the smallest reachable is used and reported.
    """
    shapes, chooser = quantized_shapes(checkpoint), recipe.chooser
    if recipe.one_setting:
        allowed = allowed_settings(recipe, list(shapes), checkpoint.architecture, checkpoint.tensors)
        chosen = {name: settings[0] for name, settings in allowed.items()}
        progress.note(
            f"one setting for every matrix ({recipe.candidates[0]}): {_stored_bits(chosen, shapes, transforms):.3f} stored bits per weight"
        )
        return chosen
    if measured is None:
        losses, kinds = _rounding_errors(checkpoint, recipe, shapes, transforms, progress), choose_kinds(chooser, dict.fromkeys(shapes))
    else:
        losses = {
            name: [(_stored_bytes(name, c.setting, shapes[name], transforms), c.loss, c.setting) for c in matrix.candidates]
            for name, matrix in measured.items()
        }
        kinds = choose_kinds(chooser, measured)
    left = {name: _of_kind(each, kinds.get(name)) for name, each in losses.items()}
    chosen = _fitted(left, shapes, recipe, progress) if chooser.bits else {n: min(each, key=lambda c: c[1])[2] for n, each in left.items()}
    if chooser.paper_count:
        progress.note(paper_arithmetic(chosen))
    return chosen


def require_reachable(checkpoint: Checkpoint, recipe: Recipe, transforms: Transforms) -> None:
    """Raises ConfigError for a budget below the smallest candidates. Called before pass 1, so that the user need not wait for it."""
    if not (recipe.chooser.bits and recipe.chooser.required):
        return
    shapes = quantized_shapes(checkpoint)
    settings = allowed_settings(recipe, list(shapes), checkpoint.architecture, checkpoint.tensors)
    sizes = {
        name: [(size := _stored_bytes(name, s, shape, transforms), -float(size), s) for s in settings[name]]
        for name, shape in shapes.items()
    }
    fit_budget(sizes, _weight_counts(shapes), recipe.chooser.bits, explicit=True)


def choose_kinds(chooser: Chooser, measured: Mapping[str, Measured | None]) -> Kinds:
    """A kind for each tensor by the rule; empty where errors decide. Only "error", "uniform" and "codebook" do without a pass 1."""
    if chooser.rule == "error":
        return {}
    if chooser.rule in ("uniform", "codebook"):
        return dict.fromkeys(measured, chooser.rule)
    known = {name: one for name, one in measured.items() if one is not None}
    assert len(known) == len(measured), "a recipe with this rule has a pass 1"
    if chooser.rule == "incoherence":
        return {name: "codebook" if one.incoherence > INCOHERENT else "uniform" for name, one in known.items()}
    if chooser.rule == "share":
        evidence = {name: evidence_of(one, chooser) for name, one in known.items()}
        scores = SELECTORS[chooser.selector].scores(evidence, chooser.coarse_share)
        return dict(by_share(scores, {name: one.weights for name, one in known.items()}, chooser.sq_share))
    read = {name: one.proxies[chooser.proxy] for name, one in known.items()}
    pairs = {name: (p["coarse"], p["fine"][chooser.order - 2]) for name, p in read.items()}
    if chooser.rule == "fixed":
        return dict(choose(pairs, Thresholds(chooser.tau_c, chooser.tau_f)))
    return dict(algorithm1(pairs, chooser.coarse_share, chooser.fine_share)[0])


def paper_arithmetic(chosen: Mapping[str, Setting]) -> str:
    """The bits as the paper counts them: a mean over tensors, whatever their size, without zeros, row scales or padding."""
    terms, mean = [], 0.0
    for kind, name in (("uniform", "SQ"), ("codebook", "VQ")):
        share, bits = sum(setting.kind == kind for setting in chosen.values()) / len(chosen), _nominal(chosen, kind)
        mean += share * bits
        terms += [f"{100 * share:.1f} % {name} at {bits:g}"] if share else []
    counted = " + ".join(terms)
    return f"by the paper's arithmetic, a mean over tensors: {counted} = {mean:.3f} bits; the ledger has the true bits per weight"


def _nominal(chosen: Mapping[str, Setting], kind: str) -> float:
    """The paper's bits of this kind: of its first setting, as methods that count like this have one a kind."""
    return next((setting.codec.nominal_bits for setting in chosen.values() if setting.kind == kind), 0.0)


def _of_kind(candidates: list[tuple[int, float, Setting]], kind: str | None) -> list[tuple[int, float, Setting]]:
    """The candidates of a kind; all of them if there are none, which --tensor-bits can cause."""
    return [c for c in candidates if kind in (None, c[2].kind)] or candidates


def _fitted(candidates: Losses, shapes: dict[str, tuple[int, int]], recipe: Recipe, progress: Progress) -> dict[str, Setting]:
    bits = recipe.chooser.bits
    settings, reached = fit_budget(candidates, _weight_counts(shapes), bits, explicit=recipe.chooser.required)
    if reached > bits:
        cause = "these shapes with your --tensor-bits" if recipe.tensor_bits else "these shapes"
        progress.note(f"{cause} cannot reach {bits:g} bits per weight; using the smallest reachable, {reached:.3f}")
    return settings


def _stored_bits(chosen: Mapping[str, Setting], shapes: Mapping[str, tuple[int, int]], transforms: Transforms) -> float:
    stored = sum(_stored_bytes(name, setting, shapes[name], transforms) for name, setting in chosen.items())
    return 8 * stored / sum(rows * cols for rows, cols in shapes.values())


def _stored_bytes(name: str, setting: Setting, shape: tuple[int, int], transforms: Transforms) -> int:
    """Bytes of the matrix and of the transform of its input."""
    return setting.stored_bytes(shape) + transform_bytes(for_setting(transforms.get(name, NONE), setting), shape[1])


def _weight_counts(shapes: dict[str, tuple[int, int]]) -> dict[str, int]:
    return {name: rows * cols for name, (rows, cols) in shapes.items()}


def _rounding_errors(
    checkpoint: Checkpoint, recipe: Recipe, shapes: Mapping[str, tuple[int, int]], transforms: Transforms, progress: Progress
) -> Losses:
    settings = allowed_settings(recipe, list(shapes), checkpoint.architecture, checkpoint.tensors)
    progress.phase("choosing bits", steps=len(shapes))
    errors = {}
    for name in shapes:
        errors[name] = [
            (_stored_bytes(name, setting, shapes[name], transforms), error, setting)
            for error, setting in _errors_of(checkpoint.read_matrix(name), settings[name], recipe.quantizer)
        ]
        progress.step()
    return errors


def _errors_of(W: NDArray[np.float32], settings: Sequence[Setting], options: QuantizerOptions) -> list[tuple[float, Setting]]:
    rows = np.linspace(0, len(W) - 1, min(SAMPLED_ROWS, len(W))).astype(int)
    sample = torch.from_numpy(W[rows])
    energy = float(sample.double().square().sum())
    errors = rounding_errors(settings, options, sample)
    return [(error / energy * W.size if energy else 0.0, setting) for setting, error in zip(settings, errors, strict=True)]
