"""Which setting each matrix gets: from pass 1's losses or the paper's proxies where there was a pass 1, else from rounding errors alone.

A hybrid gives every tensor a kind, SQ or VQ, by its rule; "error" leaves both kinds open. A budget is then fitted among the candidates
that are left, so that rules can be compared at the same true bits. The methods `paper` and `readme` have one setting of each kind,
and their bits are what comes out.

Without pass 1 the error of a candidate is estimated by rounding a sample of rows, relative to their energy and weighted by the
number of weights: to first order the loss is a sum over matrices of sensitivity times relative error (the linearity theorem of
HIGGS, arXiv:2411.17525), and without calibration all sensitivities are taken as equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.config import DEFAULT_BITS, QuantizeConfig
from rwkvquant.pipeline.matrices import quantizer_options, rounding_errors
from rwkvquant.pipeline.measure import proxies_of
from rwkvquant.pipeline.plan_file import Measured
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import allowed_settings, quantized_shapes
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.algorithm1 import FIXED_THRESHOLDS, algorithm1, choose
from rwkvquant.selection.policy import fit_budget

SAMPLED_ROWS = 16
BY_PROXIES = ("algorithm1", "fixed")
FINE_ORDER = 4  # K of the paper
INCOHERENT = 8.0  # the authors' command: above it, a tensor becomes VQ
PAPER_BITS = {"sq": 3.5, "vq": 3.25}  # by the paper's count, one tensor like another

Kinds = dict[str, str]  # name -> "sq" | "vq"


def choose_settings(
    checkpoint: Checkpoint, config: QuantizeConfig, measured: Mapping[str, Measured] | None, progress: Progress
) -> dict[str, Setting]:
    """One setting for each projection and LoRA factor, by logical name.

    Raises ConfigError for an explicit budget that no choice meets; without one, the smallest reachable is used and named.
    """
    shapes = quantized_shapes(checkpoint)
    if measured is None:
        settings = allowed_settings(config, list(shapes))
        if config.code_bits is not None:
            return {name: found[0] for name, found in settings.items()}
        progress.phase("choosing bits")
        candidates = {name: _rounding_errors(checkpoint.read_matrix(name), settings[name], config) for name in shapes}
        return _fitted(candidates, shapes, config, progress)

    kinds = choose_kinds(config, _with_proxies(checkpoint, measured) if config.choice in BY_PROXIES else measured)
    open_to = {name: _of_kind(found, kinds.get(name)) for name, found in measured.items()}
    if config.method == "rwkvquant":
        return _fitted(open_to, shapes, config, progress)
    chosen = {name: min(found, key=lambda candidate: candidate[1])[2] for name, found in open_to.items()}
    progress.note(paper_arithmetic(chosen))
    return chosen


def _with_proxies(checkpoint: Checkpoint, measured: Mapping[str, Measured]) -> Mapping[str, Measured]:
    """Those of large matrices too."""
    if all(found.proxies for found in measured.values()):
        return measured
    dtypes = {matrix.name: checkpoint.tensors[matrix.source].dtype for matrix in checkpoint.logical_matrices()}
    return {
        name: found if found.proxies else replace(found, proxies=proxies_of(checkpoint.read_matrix(name), dtypes[name]))
        for name, found in measured.items()
    }


def require_reachable(checkpoint: Checkpoint, config: QuantizeConfig) -> None:
    """Raises ConfigError for a budget below the smallest candidates: before pass 1, not after it."""
    if config.method != "rwkvquant" or config.bits is None:
        return
    shapes = quantized_shapes(checkpoint)
    settings = allowed_settings(config, list(shapes))
    sizes = {name: [(size := s.stored_bytes(shape), -float(size), s) for s in settings[name]] for name, shape in shapes.items()}
    fit_budget(sizes, _weight_counts(shapes), config.bits, explicit=True)


def choose_kinds(config: QuantizeConfig, measured: Mapping[str, Measured]) -> Kinds:
    """SQ or VQ for each tensor by the rule of the options; empty where errors decide."""
    if config.choice == "error":
        return {}
    if config.choice in ("uniform", "codebook"):
        return dict.fromkeys(measured, "sq" if config.choice == "uniform" else "vq")
    if config.choice == "incoherence":
        return {name: "vq" if found.incoherence > INCOHERENT else "sq" for name, found in measured.items()}
    read = {name: found.proxies[config.proxy] for name, found in measured.items()}
    pairs = {name: (p["coarse"], p["fine"][FINE_ORDER - 2]) for name, p in read.items()}
    if config.choice == "fixed":
        return dict(choose(pairs, FIXED_THRESHOLDS["paper-rwkv7"]))
    return dict(algorithm1(pairs, *_shares(config))[0])


def _shares(config: QuantizeConfig) -> tuple[float, float]:
    """C and F of Algorithm 1: 0.5 and 0.2, or what makes the paper's own count of bits come out as asked."""
    if config.method != "paper" or config.bits is None:
        return 0.5, 0.2
    share = round((config.bits - PAPER_BITS["vq"]) / (PAPER_BITS["sq"] - PAPER_BITS["vq"]), 9)
    coarse = max(0.5, share)
    return coarse, share / coarse


def paper_arithmetic(chosen: Mapping[str, Setting]) -> str:
    """The bits as the paper counts them: a mean over tensors, large and small alike, without zeros, row scales or padding."""
    terms, mean = [], 0.0
    for kind, name in (("uniform", "SQ"), ("codebook", "VQ")):
        share, bits = sum(setting.kind == kind for setting in chosen.values()) / len(chosen), _nominal(chosen, kind)
        mean += share * bits
        terms += [f"{100 * share:.1f} % {name} at {bits:g}"] if share else []
    counted = " + ".join(terms)
    return f"by the paper's arithmetic, a mean over tensors: {counted} = {mean:.3f} bits; the ledger has the true bits per weight"


def _nominal(chosen: Mapping[str, Setting], kind: str) -> float:
    """Of the first setting of this kind; methods that count so have one."""
    return next((setting.codec.nominal_bits for setting in chosen.values() if setting.kind == kind), 0.0)


def _of_kind(found: Measured, kind: str | None) -> list[tuple[int, float, Setting]]:
    """The candidates of a kind; all of them where a rule leaves none, as --tensor-bits may have taken the others."""
    wanted = {"sq": "uniform", "vq": "codebook"}.get(kind or "")
    candidates = [(c.stored_bytes, c.loss, c.setting) for c in found.candidates]
    return [c for c in candidates if wanted in (None, c[2].kind)] or candidates


def _fitted(
    candidates: dict[str, list[tuple[int, float, Setting]]], shapes: dict[str, tuple[int, int]], config: QuantizeConfig, progress: Progress
) -> dict[str, Setting]:
    bits = DEFAULT_BITS if config.bits is None else config.bits
    settings, reached = fit_budget(candidates, _weight_counts(shapes), bits, explicit=config.bits is not None)
    if reached > bits:
        cause = "these shapes with your --tensor-bits" if config.tensor_bits else "these shapes"
        progress.note(f"{cause} cannot reach {bits} bits per weight; using the smallest reachable, {reached:.3f}")
    return settings


def _weight_counts(shapes: dict[str, tuple[int, int]]) -> dict[str, int]:
    return {name: rows * cols for name, (rows, cols) in shapes.items()}


def _rounding_errors(W: NDArray[np.float32], settings: list[Setting], config: QuantizeConfig) -> list[tuple[int, float, Setting]]:
    rows = np.linspace(0, len(W) - 1, min(SAMPLED_ROWS, len(W))).astype(int)
    sample = torch.from_numpy(W[rows])
    energy = float(sample.double().square().sum())
    errors = rounding_errors(settings, quantizer_options(config), sample)
    shares = [error / energy * W.size if energy else 0.0 for error in errors]
    return [(setting.stored_bytes(W.shape), share, setting) for setting, share in zip(settings, shares, strict=True)]
