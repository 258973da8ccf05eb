"""What each method costs a model for images, at its true bits: KL divergence of its posterior, and top-1, mIoU or AP50.

    python benchmarks/vision.py FOLDER [FOLDER ...] --work-dir WORK --json OUT.json

Each FOLDER has one checkpoint (.pth), images with labels (test_*.npz) and calibration images (calib_*.npz). Rows are in vision_rows.py.
All share calibration, `--vector-bits 8` (unless a row is about it), and patch embedding and head in 16 bits. True bits per
weight, side information and padding included, are measured from the file.

Every cell, a model and a row, is one file in WORK/MODEL with its result, and the KL of each image; a run that was stopped continues with
the missing cells. Methods that measure every candidate share this measurement, so only the first has its seconds. `ours_minus_this` is the
paired 95 % interval of the difference in KL between rwkvquant at 3.275 bits and the row: if it is below 0, ours is nearer to the
original, beyond what other images like these could change. `ours_low_minus_this` is the same of rwkvquant at 2.25 bits, for rows at 2.25.

`same_as_definition`: the largest difference of features between torch and the NumPy definition in float64, as a share of the largest.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vision_rows import GROUPS, OURS, OURS_LOW, Row

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest, __version__
from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.evaluation.images import Comparison, compare_many, evaluate
from rwkvquant.evaluation.images.load import load_image_model
from rwkvquant.formats.container import open_packed
from rwkvquant.images import ImageSet, open_image_set
from rwkvquant.kernels import vrwkv
from rwkvquant.kernels.images import normalized
from rwkvquant.models import ImageModel
from rwkvquant.pipeline import plan

Cell = dict[str, Any]


class Model:
    """A folder with a checkpoint and its images, and the folder of its cells."""

    def __init__(self, folder: str, work: Path) -> None:
        self.checkpoint, self.test, self.calib = (self._only(folder, pattern) for pattern in ("*.pth", "test_*.npz", "calib_*.npz"))
        self.name, self.cells = self.checkpoint.stem, work / self.checkpoint.stem
        self.cells.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _only(folder: str, pattern: str) -> Path:
        (path,) = Path(folder).glob(pattern)
        return path


def cell(path: Path, work: Any) -> Cell:
    """The result that is in the file, or that of `work`, which is put there."""
    if not path.exists():
        unfinished = path.with_suffix(".part")
        unfinished.write_text(json.dumps(work(), indent=1) + "\n")
        unfinished.replace(path)
    result: Cell = json.loads(path.read_text())
    return result


def quantized(model: Model, row: Row, calib_rows: int) -> tuple[Path, Cell]:
    file = model.cells / f"{row.file_name}.safetensors"

    def work() -> Cell:
        calibration = CalibrationConfig(path=str(model.calib), rows=calib_rows)
        request = QuantizeRequest(**{"head_bits": 16, "emb_bits": 16, "calibration": calibration, **row.options})
        started = time.perf_counter()
        with padded_vectors() if row.padded else nullcontext():
            report = rwkvquant.quantize(str(model.checkpoint), str(file), request, work_dir=str(model.cells / "job"))
        seconds = time.perf_counter() - started
        print(f"  {model.name}, {row.name}: {report.bits_per_weight:.3f} bits, {seconds:.0f} s", flush=True)
        sizes = {"bits_per_weight": report.bits_per_weight, "file_bytes": report.file_bytes}
        return {**sizes, "fallen_back": len(report.fallen_back), "layouts": layouts(file), "seconds": round(seconds, 1)}

    return file, cell(file.with_suffix(".quantized.json"), work)


@contextmanager
def padded_vectors() -> Iterator[None]:
    """Element-wise vectors get their bits, even where that saves nothing."""
    usual = plan._vector_setting
    plan._vector_setting = lambda recipe, width: plan._only(recipe.vectors)
    try:
        yield
    finally:
        plan._vector_setting = usual


def layouts(file: Path) -> dict[str, int]:
    """How many projections have each kind of layout: uniform, codebook, pairs, columns."""
    roles = [str(role) for role in QUANTIZED_ROLES]
    kinds = Counter(entry.layout.rstrip("0123456789").split(".")[0] for entry in open_packed(file).tensors.values() if entry.role in roles)
    return dict(kinds)


def original(model: Model, images: ImageSet) -> Cell:
    def work() -> Cell:
        base = load_image_model(str(model.checkpoint))
        started = time.perf_counter()
        scores = evaluate(base, images).result().to_json()
        seconds = round(time.perf_counter() - started, 1)
        print(f"  {model.name}, original: {seconds} s", flush=True)
        difference = difference_from_definition(base, model, images)
        return {"task": base.task, "scores": scores, "seconds": seconds, "same_as_definition": difference}

    return cell(model.cells / "original.json", work)


def difference_from_definition(base: ImageModel, model: Model, images: ImageSet) -> float:
    checkpoint = open_checkpoint(str(model.checkpoint))
    weights = {}
    for name, spec, _ in checkpoint.specs():
        weights[name] = checkpoint.read(name).reshape(spec.forward_shape(checkpoint.dims)).astype(np.float64)
    few = np.stack([images.read(index) for index in range(4)])
    pixels = normalized(few, base.settings.mean, base.settings.std).astype(np.float64)
    expected = vrwkv.features(weights, pixels, base.dims.patch, base.settings.grid, base.settings.post_norm)
    return float(np.abs(base.features(few).numpy() - expected).max() / np.abs(expected).max())


def compared(model: Model, rows: list[Row], images: ImageSet, files: dict[str, Path]) -> dict[str, Cell]:
    """One run of the original for all rows whose cell is missing."""
    missing = [row for row in rows if not (model.cells / f"{row.file_name}.json").exists()]
    if missing:
        candidates = {row.name: load_image_model(str(files[row.name])) for row in missing}
        results = compare_many(load_image_model(str(model.checkpoint)), candidates, images)
        for row in missing:
            cell(model.cells / f"{row.file_name}.json", lambda row=row: _measured(results[row.name]))
    return {row.name: json.loads((model.cells / f"{row.file_name}.json").read_text()) for row in rows}


def _measured(result: Comparison) -> Cell:
    numbers = result.result().to_json()
    print(f"    KL {numbers['kl_mean']:.6f}, {numbers['score']} {numbers['delta_score']:+.4f}", flush=True)
    return {**numbers, "kl_of_images": (result.kl / result.positions).tolist()}


def table(model: Model, rows: list[Row], args: argparse.Namespace) -> list[Cell]:
    images = open_image_set(model.test)
    if args.done:
        rows = [row for row in rows if (model.cells / f"{row.file_name}.json").exists()]
    base = {"model": model.name, "row": "original", **original(model, images)}
    done = {row.name: quantized(model, row, args.calib_rows) for row in rows}
    measured = compared(model, rows, images, {name: file for name, (file, _) in done.items()})
    kl = {name: np.array(cell.pop("kl_of_images")) for name, cell in measured.items()}
    cells = []
    for row in rows:
        entry = {"model": model.name, "row": row.name, "nominal_bits": row.nominal, **done[row.name][1], **measured[row.name]}
        if OURS in kl and row.name != OURS:
            entry["ours_minus_this"] = paired(kl[OURS], kl[row.name])
        if OURS_LOW in kl and row in GROUPS["low"][1:]:
            entry["ours_low_minus_this"] = paired(kl[OURS_LOW], kl[row.name])
        cells.append(entry)
    return [base, *cells]


def paired(ours: NDArray[np.float64], other: NDArray[np.float64]) -> Cell:
    """The mean of the difference over images, and its interval."""
    draws = resampled_means((ours - other)[None], np.ones(len(ours), np.int64))[0]
    return {"mean": float((ours - other).mean()), "ci95": interval(draws, len(ours))}


def show(rows: list[Cell]) -> None:
    print(f"{'model':<18} {'row':<48} {'bits/w':>7} {'KL':>10} {'ours - this':>23} {'score':>7} {'change':>8}")
    for row in rows:
        if row["row"] == "original":
            main = {"classify": "top1", "segment": "miou", "detect": "ap50"}[row["task"]]
            print(f"{row['model']:<18} {'original':<48} {16:7.3f} {'':>10} {'':>23} {100 * row['scores'][main]:7.2f}")
            continue
        paired = row.get("ours_minus_this")
        shown = f"[{paired['ci95'][0]:10.6f},{paired['ci95'][1]:10.6f}]" if paired else " " * 23
        score = f"{100 * row['score_quantized']:7.2f} {100 * row['delta_score']:+8.2f}"
        print(f"{row['model']:<18} {row['row']:<48} {row['bits_per_weight']:7.3f} {row['kl_mean']:10.6f} {shown} {score}")


def conditions(models: list[Model], args: argparse.Namespace) -> Cell:
    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    files = {model.name: {path.name: digest(path) for path in (model.checkpoint, model.test, model.calib)} for model in models}
    return {
        "files": files,
        "calibration_images": args.calib_rows,
        "rwkvquant": __version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "machine": platform.machine(),
        "commit": commit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+")
    parser.add_argument("--work-dir", required=True, help="the cells; those that are there are not measured again")
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    parser.add_argument("--done", action="store_true", help="do no work: a table of the cells that are there")
    parser.add_argument("--calib-rows", type=int, default=256, help="calibration images; all if there are fewer")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = [Model(folder, Path(args.work_dir)) for folder in args.folders]
    rows: list[Cell] = []
    for group_end in range(1, len(args.groups) + 1):  # all models' first group comes before any model's second
        wanted = [row for group in args.groups[:group_end] for row in GROUPS[group]]
        rows = [entry for model in models for entry in table(model, wanted, args)]
    show(rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"conditions": conditions(models, args), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
