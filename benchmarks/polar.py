"""Directions and magnitudes (PCDVQ) against other methods at 2.0 to 2.25 bits, and the paper's motive.

    python benchmarks/polar.py MODEL.pth --tokenizer tokenizer.json --calib calib.txt --text eval.txt --json OUT.json --work-dir DIR

Parts, each kept in OUT.json when it is done, so that an interrupted run continues:

    models       KL divergence of whole models at their true bits; every row is compared with OURS token by token on the same windows
    wide         the same for rows of about 2.25 bits, beside OURS
    decode       CPU time of a token on one thread, from the files of `models` and `wide` that are in --work-dir
    motive       all matrices with k-means on directions alone, or on magnitudes alone, with the same number of centroids
    directions   what a codebook of directions loses of normal vectors: E8, random, and k-means
    speed        a product of 2048 x 2048 with one vector on one thread, beside uniform grids and pairs

Embedding and head keep 16 bits in `models`, element-wise vectors 8.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arguments import parser_for
from quality import KEYS, Clock, conditions
from torch import Tensor

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import CodecConfig, GridConfig, PackedTensor, PairConfig, PolarConfig
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.kernels.directions import directions
from rwkvquant.kernels.dispatch import native_module
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.quantizers.polar.assign import GROUP, codebook, nearest
from rwkvquant.recipes import Recipe, Setting, recipe_for

OURS = "polar 14+2"
WIDE = (OURS, "polar 14+2, paper, feedback", "polar 16+2, paper, feedback")
CENTROIDS = (16, 256)
ROUNDS = 10  # of k-means
TOKENS = 64  # of one measurement of speed


def recipes(args: argparse.Namespace) -> dict[str, Recipe]:
    calibration = CalibrationConfig(path=args.calib, rows=args.calib_rows)

    def made(method: str, *own: str, **options: Any) -> Recipe:
        fixed = {"head_bits": 16, "emb_bits": 16, "calibration": calibration, "tokenizer": args.tokenizer}
        return recipe_for(QuantizeRequest(method=method, own_options=own, **fixed, **options))

    def polar(*own: str, **options: Any) -> Recipe:
        return made("pcdvq", *own, **options)

    one, wide = ("direction_bits=15", "magnitude_bits=1"), ("direction_bits=16", "magnitude_bits=2")
    rows = {
        OURS: polar(),
        "polar 14+2, no feedback": polar("feedback=no"),
        "polar 14+2, no rotation": polar("rotation=no"),
        "polar 14+2, neither": polar("feedback=no", "rotation=no"),
        "polar 14+2, paper": polar(style="paper"),
        "polar 14+2, paper, feedback": polar("feedback=yes", style="paper"),
        "polar 14+2, random directions": polar("directions=random"),
        "polar 15+1": polar(*one),
        "polar 15+1, paper, feedback": polar(*one, "feedback=yes", style="paper"),
        "polar 16+2, paper, feedback": polar(*wide, "feedback=yes", style="paper"),
        "polar 16+2": polar(*wide),
        "polar 16+2, no rotation": polar(*wide, "rotation=no"),
        "gptq 2 bits g64": made("gptq", code_bits=2, group_size=64),
        "gptq 2 bits g128": made("gptq", code_bits=2, group_size=128),
        "gptvq 2 bits 16 x 32": made("gptvq", code_bits=2, codebook_size=512),
        "gptvq 2 bits 8 x 32": made("gptvq", code_bits=2, codebook_size=256),
        "kmeans 2 bits 8 x 32": made("kmeans", code_bits=2, codebook_size=256),
        "pairs 4 bits": made("gptvq", code_bits=2, codebook_dim=2),
    }
    pairs = rows["pairs 4 bits"]
    rows["pairs 4 bits, 16 rows"] = replace(pairs, candidates=(Setting("gptvq", PairConfig(4, 16)),))
    rows["pairs 4 bits, rotated"] = replace(pairs, transform="hadamard")
    rows["gptq 2 bits g64, rotated"] = replace(rows["gptq 2 bits g64"], transform="hadamard")
    return rows


def file_of(folder: Path, row: str) -> Path:
    return folder / f"{row.replace(' ', '_').replace(',', '')}.safetensors"


def models(args: argparse.Namespace) -> list[dict[str, Any]]:
    folder = Path(args.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    done: dict[str, tuple[Path, dict[str, Any]]] = {}
    for name, recipe in recipes(args).items():
        if args.rows and name not in args.rows:
            continue
        file = file_of(folder, name)
        kept = file.with_suffix(".json")
        if not kept.exists():
            clock, started = Clock(), time.process_time()
            report = rwkvquant.quantize(args.model, file, recipe, progress=clock).to_json()
            measured = {key: report[key] for key in ("bits_per_weight", "file_bytes")}
            measured |= {"fallen_back": len(report["fallen_back"]), "cpu_seconds": time.process_time() - started}
            kept.write_text(json.dumps(measured))
            print(f"  {name}: {report['bits_per_weight']:.3f} bits, {measured['cpu_seconds']:.0f} s", flush=True)
        done[name] = file, json.loads(kept.read_text())
    base, encode = load_model(args.model, args.tokenizer)
    cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
    compared = divergence.compare_many(base, {name: load_model(str(file), None)[0] for name, (file, _) in done.items()}, cut)
    rows = []
    for name, (_, measured) in done.items():
        found = compared[name].to_json()
        row = {"row": name, **measured, **{key: found[key] for key in KEYS}}
        if name != OURS:
            row["this_minus_ours"] = divergence.difference(compared[name], compared[OURS])["kl_difference_ci95"]
        rows.append(row)
    return rows


def wide(args: argparse.Namespace) -> list[dict[str, Any]]:
    return models(argparse.Namespace(**{**vars(args), "rows": WIDE}))


def decode(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The least of --tries, all files in turn: other programs run too."""
    files = {name: file_of(Path(args.work_dir), name) for name in recipes(args)}
    loaded = {name: rwkvquant.load(file, threads=1) for name, file in files.items() if file.exists()}
    loaded["checkpoint"] = rwkvquant.load(args.model, args.tokenizer, threads=1)
    states = {name: model.forward([0, 1, 2, 3])[1] for name, model in loaded.items()}
    least = dict.fromkeys(loaded, float("inf"))
    for _ in range(args.tries):
        for name, model in loaded.items():
            state, started = states[name], time.process_time()
            for token in range(TOKENS):
                _, state = model.forward([token], state)
            least[name] = min(least[name], 1000 * (time.process_time() - started) / TOKENS)
    return [{"row": name, "isa": loaded[name].backend, "cpu_ms_per_token": round(value, 4)} for name, value in least.items()]


def k_means(x: Tensor, k: int, spherical: bool) -> Tensor:
    """x (n, d) -> centroids (k, d), from samples that are evenly spaced in the order of the first component."""
    centres = x[x[:, 0].argsort()][torch.linspace(0, len(x) - 1, k).round().long()].clone()
    for _ in range(ROUNDS):
        codes = assigned(x, centres, spherical)
        sums, counts = torch.zeros_like(centres).index_add_(0, codes, x), torch.bincount(codes, minlength=k)
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
        if spherical:
            centres = centres / centres.norm(dim=1, keepdim=True).clamp(min=1e-30)
    return centres


def assigned(x: Tensor, centres: Tensor, spherical: bool) -> Tensor:
    if not spherical:
        return (x - centres.T).abs().argmin(1)
    return nearest(x, centres)[0] if len(centres) >= GROUP else (x @ centres.T).argmax(1)


class Changed(CheckpointSource):
    """The weights of a checkpoint with its matrices changed, each once."""

    def __init__(self, checkpoint: Any, change: Any) -> None:
        super().__init__(checkpoint)
        self._change, self._changed = change, dict[str, Tensor]()

    def _read(self, name: str, spec: Any, shape: tuple[int, ...]) -> Tensor | None:
        W = super()._read(name, spec, shape)
        if W is None or spec.role not in QUANTIZED_ROLES or W.shape[-1] % 8:
            return W
        if name not in self._changed:
            self._changed[name] = self._change(W)
        return self._changed[name]


def motive(args: argparse.Namespace) -> list[dict[str, Any]]:
    checkpoint, errors = open_checkpoint(args.model), dict[str, list[float]]()

    def coarse(what: str, k: int) -> Any:
        def change(W: Tensor) -> Tensor:
            v = W.reshape(-1, 8)
            r = v.norm(dim=1, keepdim=True).clamp(min=1e-30)
            if what == "directions":
                u = k_means(v / r, min(k, len(v)), True)
                q = r * u[assigned(v / r, u, True)]
            else:
                c = k_means(r, min(k, len(v)), False)
                q = c[assigned(r, c, False)] * v / r
            errors.setdefault(f"{what}, {k}", []).append(float((v - q).square().sum() / v.square().sum()))
            return q.view(W.shape)

        return change

    base, encode = load_model(args.model, args.tokenizer)
    cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
    names = {f"{what}, {k}": (what, k) for k in CENTROIDS for what in ("directions", "magnitudes")}
    others = {name: TorchModel(Changed(checkpoint, coarse(*said))) for name, said in names.items()}
    compared = divergence.compare_many(base, others, cut)
    return [
        {"row": name, "error": sum(errors[name]) / len(errors[name]), **{key: compared[name].to_json()[key] for key in KEYS}}
        for name in names
    ]


def of_directions(args: argparse.Namespace) -> list[dict[str, Any]]:
    test = torch.randn(args.vectors, 8, generator=torch.Generator().manual_seed(1))
    test = test / test.norm(dim=1, keepdim=True)
    rows = []
    for bits in (12, 14, 16):
        for kind in ("e8", "random", "k-means"):
            if kind == "k-means" and bits == 16:
                continue  # hours
            started = time.process_time()
            if kind == "k-means":
                train = torch.randn(args.samples << bits, 8, generator=torch.Generator().manual_seed(2))
                V = k_means(train / train.norm(dim=1, keepdim=True), 1 << bits, True)
            else:
                directions.cache_clear()
                codebook.cache_clear()
                V = codebook(kind, bits)
            seconds = time.process_time() - started
            along = nearest(test, V)[1]
            rows.append({"row": f"{kind} {bits}", "error": float(1 - along.square().mean()), "cpu_seconds": seconds})
            print(f"  {rows[-1]}", flush=True)
    return rows


def parts(native: Any, x: np.ndarray) -> tuple[np.ndarray, ...]:
    """x (count, cols), cols a multiple of 64 -> q, scale, minus_sum and x, as the native product takes them."""
    count, cols = x.shape
    q, scale, sums = np.empty(x.size, np.int8), np.empty(x.size // 64, np.float32), np.empty(x.size // 32, np.int32)
    native.quantize_activations(x.reshape(-1), count, cols, q, scale, sums)
    return q, scale, sums, x.reshape(-1)


def speed(args: argparse.Namespace) -> list[dict[str, Any]]:
    native, shape, rng, rows = native_module(), (2048, 2048), np.random.default_rng(0), list[dict[str, Any]]()
    assert native is not None
    settings: dict[str, CodecConfig] = {
        "uniform 2 bits g64": GridConfig(2, 64),
        "pairs 4 bits": PairConfig(4, 64),
        "polar 12+4": PolarConfig(12, 4),
        "polar 14+2": PolarConfig(14, 2),
        "polar 15+1": PolarConfig(15, 1),
        "polar 16+2": PolarConfig(16, 2),
    }
    for name, config in settings.items():
        packing = config.packing(shape)
        matrices = [PackedTensor(packing, packing.codec.random_arrays(rng, packing, 0.02)) for _ in range(args.matrices)]
        for count in (1, 32):
            x = rng.standard_normal((count, shape[1])).astype(np.float32)
            best = float("inf")
            held, prepared = [matrix.native(native) for matrix in matrices], parts(native, x)
            out = np.empty(count * shape[0], np.float32)
            for _ in range(args.tries):
                for matrix in held:  # together more than the second-level cache holds; the least time, as other programs run too
                    started = time.perf_counter()
                    native.product(matrix, *prepared, count, out, shape[0], 0, shape[0])
                    best = min(best, time.perf_counter() - started)
            row = {"row": name, "vectors": count, "isa": native.isa(), "us": 1e6 * best, "gb_per_s": packing.stored_bytes / best / 1e9}
            rows.append(row | {"gweights_per_s": count * shape[0] * shape[1] / best / 1e9})
            print(f"  {rows[-1]}", flush=True)
    return rows


PARTS = {"models": models, "wide": wide, "decode": decode, "motive": motive, "directions": of_directions, "speed": speed}


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--samples", type=int, default=32, help="of k-means, for each direction")
    parser.add_argument("--vectors", type=int, default=10000)
    parser.add_argument("--matrices", type=int, default=16)
    parser.add_argument("--tries", type=int, default=10)
    parser.add_argument("--rows", nargs="+", help="of `models`: only these, beside what is there; OURS must be one")
    parser.add_argument("--parts", nargs="+", default=["models", "motive"], choices=list(PARTS))
    parser.add_argument(
        "--again", nargs="+", default=[], choices=list(PARTS), help="measure these parts again; rows of the same name change"
    )
    args = parser.parse_args()
    if args.work_dir is None or args.json is None:
        parser.error("polar.py needs --work-dir and --json")
    output = Path(args.json)
    results = json.loads(output.read_text()) if output.exists() else {}
    for part in args.parts:
        had = {row["row"]: row for row in results.get(part, {}).get("rows", [])}
        if had and part not in args.again and not (part == "models" and set(args.rows or ()) - set(had)):
            continue
        print(part, flush=True)
        rows = had | {row["row"]: row for row in PARTS[part](args)}
        results[part] = {"conditions": conditions(args) | {"max_tokens": args.max_tokens}, "rows": list(rows.values())}
        output.write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps({part: results[part]["rows"] for part in args.parts}, indent=1))


if __name__ == "__main__":
    main()
