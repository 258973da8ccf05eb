"""How well does each selector predict what quantising one matrix costs the model? And what would each choice of SQ and VQ cost?

    python benchmarks/selector_study.py MODEL.pth --tokenizer tokenizer.json --calib calib.txt --work-dir DIR --json OUT.json

Every matrix is quantised alone, by SQ and by VQ, and the KL divergence of the model is measured (pipeline/kl_alone.py). Both are
interpolated to exactly `--bits` (selection/curves.py), as are the other losses. Then

    gain      rank correlations of each selector's score with (KL of SQ - KL of VQ) per weight, and with ln (KL of SQ / KL of VQ)
    loss      rank correlations of each estimate of a loss, and of each statistic, with the measured KL itself
    ratios    measured KL over the loss in nats of pass 1, the matrices that this misjudges most, and which statistics tell them
    choices   the sum of measured KL over all matrices, each at `--bits`, for selectors, shares, K and percentiles; 1 is all SQ
    budgets   what pass 1 predicts for the whole model, with all candidates or some

Intervals are of a bootstrap over matrices. Pass 1 and the measurements stay in DIR/plan.json, so another run only computes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from math import exp, log
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.lab.conditions import conditions
from rwkvquant.pipeline.choose import choose_kinds
from rwkvquant.pipeline.evidence import evidence_of
from rwkvquant.pipeline.plan_file import Candidate, Measured, from_json
from rwkvquant.pipeline.quantize import plan_only
from rwkvquant.recipes import Chooser
from rwkvquant.selection.policy import fit_budget
from rwkvquant.selection.selectors import SELECTORS, Evidence

READINGS = ("paper", "unique", "dithered")
SHARES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
ORDERS = (2, 3, 4, 5, 6)
PERCENTS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
FINE = (1.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8)  # 1: P_c alone
RESAMPLES = 500
Values = NDArray[np.float64]


def ranks(values: Values) -> Values:
    """1 for the least; equal values have the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((last - (count - 1) / 2)[place], dtype=np.float64)


def spearman(x: Values, y: Values) -> float:
    a, b = ranks(x), ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else 0.0


def kendall(x: Values, y: Values) -> float:
    """tau-b, which takes ties into account."""
    upper = np.triu_indices(len(x), 1)
    a, b = np.sign(x[:, None] - x)[upper], np.sign(y[:, None] - y)[upper]
    scale = float(np.sqrt(np.abs(a).sum() * np.abs(b).sum()))
    return float(a @ b) / scale if scale else 0.0


def correlation(x: Iterable[float], y: Iterable[float]) -> dict[str, Any]:
    """Spearman's with its 95 % interval, and Kendall's."""
    a, b = np.array(list(x)), np.array(list(y))
    random = np.random.default_rng(0)
    drawn = [spearman(a[at], b[at]) for at in (random.integers(0, len(a), len(a)) for _ in range(RESAMPLES))]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return {"spearman": round(spearman(a, b), 3), "interval": [round(low, 3), round(high, 3)], "kendall": round(kendall(a, b), 3)}


def measured_model(args: argparse.Namespace) -> dict[str, Measured]:
    for selector in ("mse", "kl"):
        plan_only(
            args.model,
            QuantizeRequest(
                bits=args.bits,
                choice="share",
                own_options=(f"selector={selector}",),
                tokenizer=args.tokenizer,
                calibration=CalibrationConfig(args.calib, rows=args.calib_rows),
                head_bits=16,
                emb_bits=16,
            ),
            work_dir=args.work_dir,
        )
    found = from_json(json.loads((Path(args.work_dir) / "plan.json").read_text())["state"]["tensors"])
    assert found is not None
    return found


def chooser_for(args: argparse.Namespace, **options: Any) -> Chooser:
    return replace(Chooser("share", bits=args.bits), **options)


def all_scores(model: dict[str, Measured], args: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Selector, with its reading -> a rank for each matrix: the least gets SQ first."""
    found: dict[str, dict[str, float]] = {}
    for name, selector in SELECTORS.items():
        for reading in READINGS if selector.reads else ("",):
            chooser = chooser_for(args, proxy=reading or "paper")
            scores = selector.scores({m: evidence_of(one, chooser) for m, one in model.items()}, chooser.coarse_share)
            order = {score: float(place) for place, score in enumerate(sorted(set(scores.values())))}
            found[f"{name}, {reading}" if reading else name] = {m: order[score] for m, score in scores.items()}
    found["incoherence"] = {m: one.incoherence for m, one in model.items()}
    found["number of weights"] = {m: float(one.weights) for m, one in model.items()}
    return found


def of_gains(scores: dict[str, dict[str, float]], sides: dict[str, Evidence], names: list[str]) -> dict[str, Any]:
    """A good selector has large positive numbers."""
    kl = {m: sides[m].losses["kl"] for m in names}
    by_weight = [(kl[m][0] - kl[m][1]) / sides[m].weights for m in names]
    ratio = [log(max(kl[m][0], 1e-12) / max(kl[m][1], 1e-12)) for m in names]
    return {
        name: {"by weight": correlation([each[m] for m in names], by_weight), "log ratio": correlation([each[m] for m in names], ratio)}
        for name, each in scores.items()
    }


def of_losses(scores: dict[str, dict[str, float]], sides: dict[str, Evidence], names: list[str]) -> dict[str, Any]:
    """`mse` and `hessian` times the number of weights: the loss if all matrices are equally sensitive."""
    estimates: dict[str, Callable[[str, int], float]] = {
        "nats": lambda m, kind: sides[m].losses["nats"][kind],
        "hessian x weights": lambda m, kind: sides[m].losses["hessian"][kind] * sides[m].weights,
        "mse x weights": lambda m, kind: sides[m].losses["mse"][kind] * sides[m].weights,
    }
    found = {}
    for kind, label in enumerate(("SQ", "VQ")):
        kl = [sides[m].losses["kl"][kind] for m in names]
        found[label] = {name: correlation([estimate(m, kind) for m in names], kl) for name, estimate in estimates.items()}
        found[label] |= {name: correlation([each[m] for m in names], kl) for name, each in scores.items() if name not in SELECTORS}
    return found


def of_ratios(model: dict[str, Measured], scores: dict[str, dict[str, float]], sides: dict[str, Evidence]) -> dict[str, Any]:
    ratios = {m: sides[m].losses["kl"][0] / sides[m].losses["nats"][0] for m in model}
    logs = {m: abs(log(max(ratio, 1e-6))) for m, ratio in ratios.items()}
    names = list(model)
    worst = sorted(names, key=lambda m: -logs[m])[:12]
    statistics = {name: each for name, each in scores.items() if name not in SELECTORS or name == "nats"}
    return {
        "median": float(np.median(list(ratios.values()))),
        "within a factor of two": sum(each < log(2) for each in logs.values()) / len(logs),
        "most misjudged": {m: {"ratio": round(ratios[m], 2), "kl": sides[m].losses["kl"][0], "share": share(sides, m)} for m in worst},
        "correlation with |ln ratio|": {
            name: correlation([each[m] for m in names], [logs[m] for m in names]) for name, each in statistics.items()
        },
    }


def share(sides: dict[str, Evidence], name: str) -> float:
    """Of all measured KL with SQ."""
    return round(sides[name].losses["kl"][0] / sum(one.losses["kl"][0] for one in sides.values()), 4)


def of_choices(model: dict[str, Measured], sides: dict[str, Evidence], args: argparse.Namespace) -> dict[str, Any]:
    all_sq = sum(one.losses["kl"][0] for one in sides.values())
    weights = sum(one.weights for one in sides.values())

    def cost(chooser: Chooser) -> dict[str, float]:
        kinds = choose_kinds(chooser, model)
        total = sum(sides[m].losses["kl"][0 if kind == "uniform" else 1] for m, kind in kinds.items())
        sq = [m for m, kind in kinds.items() if kind == "uniform"]
        return {
            "kl": round(total / all_sq, 4),
            "sq_tensors": round(len(sq) / len(kinds), 4),
            "sq_weights": round(sum(sides[m].weights for m in sq) / weights, 4),
        }

    by_selector = {}
    for name, selector in SELECTORS.items():
        for reading in READINGS if selector.reads else ("paper",):
            label = f"{name}, {reading}" if selector.reads else name
            by_selector[label] = {str(s): cost(chooser_for(args, selector=name, proxy=reading, sq_share=s)) for s in SHARES}
    at_random = np.random.default_rng(0)
    chances = []
    for _ in range(RESAMPLES):
        order, total, left = at_random.permutation(list(sides)), 0.0, weights / 2
        for m in order:
            sq = left > 0
            total += sides[m].losses["kl"][0 if sq else 1]
            left -= sides[m].weights
        chances.append(total / all_sq)
    best = sum(min(one.losses["kl"]) for one in sides.values()) / all_sq
    algorithm1 = {
        reading: {
            f"C {c:g}, F {f:g}": cost(chooser_for(args, rule="algorithm1", proxy=reading, coarse_share=c, fine_share=f))
            for c in PERCENTS
            for f in FINE
        }
        for reading in READINGS
    }
    orders = {
        reading: {
            f"F {f:g}": {str(k): cost(chooser_for(args, rule="algorithm1", proxy=reading, order=k, fine_share=f)) for k in ORDERS}
            for f in (0.2, 0.4, 0.6, 0.8)
        }
        for reading in READINGS
    }
    return {
        "all SQ, KL in nats": all_sq,
        "each matrix by its smaller KL": round(best, 4),
        "half of the weights at random": [round(float(np.quantile(chances, q)), 4) for q in (0.025, 0.5, 0.975)],
        "selectors": by_selector,
        "algorithm 1": algorithm1,
        "orders": orders,
    }


def of_budgets(model: dict[str, Measured], args: argparse.Namespace) -> dict[str, float]:
    """The loss of the whole model in nats that pass 1 predicts, if the budget is spent among some of the candidates."""
    allowed: dict[str, Callable[[Candidate], bool]] = {
        "SQ": lambda c: c.setting.kind == "uniform",
        "SQ, up to 3 bits": lambda c: c.setting.kind == "uniform" and c.setting.codec.code_bits <= 3,
        "VQ": lambda c: c.setting.kind == "codebook",
        "VQ, up to 3 bits": lambda c: c.setting.kind == "codebook" and c.setting.codec.code_bits <= 3,
        "both": lambda c: True,
    }
    weights = {name: one.weights for name, one in model.items()}
    found = {}
    for label, keep in allowed.items():
        items = {name: [(c.stored_bytes, c.loss, c) for c in one.candidates if keep(c)] for name, one in model.items()}
        chosen, _ = fit_budget(items, weights, args.bits, explicit=True)
        found[label] = sum(c.loss for c in chosen.values())
    return found


def table(title: str, rows: dict[str, dict[str, Any]]) -> None:
    print(f"\n{title}")
    for name, columns in rows.items():
        print(f"  {name:28}", "  ".join(f"{key} {value['spearman']:+.2f} {value['interval']}" for key, value in columns.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--calib-rows", type=int, default=64)
    parser.add_argument("--bits", type=float, default=3.275)
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--json")
    args = parser.parse_args()
    model = measured_model(args)
    sides = {m: evidence_of(one, chooser_for(args)) for m, one in model.items()}
    scores = all_scores(model, args)
    large = [m for m, one in model.items() if m.endswith(".weight")]  # projections; LoRA factors have no such ending
    found = {
        "model": Path(args.model).name,
        "bits": args.bits,
        "matrices": len(model),
        "resamples": RESAMPLES,
        "projections": len(large),
        "gain": {"all": of_gains(scores, sides, list(model)), "projections": of_gains(scores, sides, large)},
        "loss": {"all": of_losses(scores, sides, list(model)), "projections": of_losses(scores, sides, large)},
        "ratios": of_ratios(model, scores, sides),
        "choices": of_choices(model, sides, args),
        "budgets": of_budgets(model, args),
        "kl": {m: [float(f"{loss:.6g}") for loss in one.losses["kl"]] for m, one in sides.items()},
        "nats": {m: [float(f"{loss:.6g}") for loss in one.losses["nats"]] for m, one in sides.items()},
    }
    for which in ("all", "projections"):
        table(f"gain of VQ, {which}", found["gain"][which])  # type: ignore[index]
    gain = [log(one.losses["kl"][0] / one.losses["kl"][1]) for one in sides.values() if min(one.losses["kl"]) > 0]
    print("\nKL of SQ over KL of VQ, quartiles:", [round(exp(q), 3) for q in np.quantile(gain, [0.25, 0.5, 0.75])])
    print(json.dumps(found["ratios"], indent=1), json.dumps(found["choices"], indent=0)[:3000])
    if args.json:
        made_from = json.loads((Path(args.work_dir) / "plan.json").read_text())["made_from"]
        where = {name: value for name, value in conditions().items() if name != "system"}
        Path(args.json).write_text(json.dumps({**found, "made_from": made_from, "conditions": where}, indent=1) + "\n")


if __name__ == "__main__":
    main()
