"""What each method costs in quality, at its true bits: KL divergence, perplexity and LAMBADA on text that was not calibrated on.

    python benchmarks/quality.py MODEL.pth --tokenizer tokenizer.json --calib calib.txt --text eval.txt [--lambada FILE] --json OUT.json

Rows are in quality_rows.py. Unless a row is about them, all share calibration, 8-bit element-wise vectors, and embedding and head
in 16 bits. True bits per weight, side information and padding included, are measured from the file. Each row is compared with
rwkvquant at 3.275 bits token by token on the same windows: a difference in KL whose paired 95 % interval excludes 0 is real on
this text. Hybrids share pass 1 through one work directory, so only the first of their rows has its seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch
from arguments import parser_for, work_folder
from quality_rows import GROUPS, OURS, Row

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.evaluation import divergence, lambada, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.formats.container import open_packed
from rwkvquant.lab.clock import Clock

KEYS = ("kl_mean", "kl_ci95", "kl_p99", "top1_agreement", "ppl_base", "ppl_quantized", "tokens")


def quantize(checkpoint: str, row: Row, args: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, Any]]:
    calibration = CalibrationConfig(path=args.calib, rows=args.calib_rows)
    request = QuantizeRequest(**{"head_bits": 16, "emb_bits": 16, "calibration": calibration, "tokenizer": args.tokenizer, **row.options})
    file, clock = folder / f"{row.name.replace(' ', '_')}.safetensors", Clock(print)
    kept = file.with_suffix(".json")  # an interrupted run continues where it stopped
    if kept.exists():
        return file, json.loads(kept.read_text())
    report = rwkvquant.quantize(checkpoint, file, request, progress=clock, work_dir=folder).to_json()
    measured = {
        "row": row.name,
        "group": row.group,
        "nominal_bits": row.nominal,
        "bits_per_weight": report["bits_per_weight"],
        "file_bytes": report["file_bytes"],
        "fallen_back": len(report["fallen_back"]),
        "vq_share": vq_share(file),
        "seconds": dict(clock.seconds),
    }
    print(f"  {row.name}: {report['bits_per_weight']:.3f} bits, {sum(clock.seconds.values()):.0f} s", flush=True)
    kept.write_text(json.dumps(measured))
    return file, measured


def vq_share(file: Path) -> dict[str, float]:
    """The share of codebooks among projections and LoRA factors, counted by tensors and by weights."""
    entries = [entry for entry in open_packed(file).tensors.values() if entry.role in [str(role) for role in QUANTIZED_ROLES]]
    sizes = [entry.shape[0] * entry.shape[1] for entry in entries]
    vq = [not entry.layout.startswith("uniform") for entry in entries]
    return {"tensors": sum(vq) / len(vq), "weights": sum(size for size, is_vq in zip(sizes, vq, strict=True) if is_vq) / sum(sizes)}


def measure(checkpoint: str, args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    wanted = [row for group in args.groups for row in GROUPS[group]]
    done = [(row, *quantize(checkpoint, row, args, folder)) for row in wanted]
    models = {row.name: load_model(file, None)[0] for row, file, _ in done}
    base, encode = load_model(checkpoint, args.tokenizer)
    cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
    divergences = divergence.compare_many(base, models, cut)
    rows = []
    for row, _, measured in done:
        compared = divergences[row.name].to_json()
        entry = {"model": Path(checkpoint).stem, **measured, **{key: compared[key] for key in KEYS}}
        if OURS in divergences and row.name != OURS:
            entry["ours_minus_this"] = divergence.difference(divergences[OURS], divergences[row.name])["kl_difference_ci95"]
        if row.lambada and args.lambada:
            entry["lambada"] = lambada.lambada(models[row.name], encode, args.lambada, max_docs=args.lambada_docs).to_json()
        rows.append(entry)
    if args.lambada and any(row.lambada for row in wanted):
        scored = lambada.lambada(base, encode, args.lambada, max_docs=args.lambada_docs).to_json()
        rows.append({"model": Path(checkpoint).stem, "row": "original", "group": "original", "lambada": scored})
    return rows


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    def digest(path: str) -> str:
        files = sorted(Path(path).glob("*.safetensors")) if Path(path).is_dir() else [Path(path)]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "text": digest(args.text),
        "calibration": digest(args.calib),
        "calibration_rows": args.calib_rows,
        "lambada_docs": args.lambada_docs if args.lambada else None,
        "model": {Path(args.model).stem: digest(args.model)},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": os.getloadavg()[0],
        "machine": platform.machine(),
        "commit": commit,
    }


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'row':<44} {'bits/w':>7} {'KL':>9} {'95 % interval':>21} {'ours - this':>21} {'ppl':>8} {'VQ':>5} {'s':>6}")
    for row in rows:
        if "kl_mean" not in row:
            continue
        low, high = row["kl_ci95"]
        paired = row.get("ours_minus_this")
        print(
            f"{row['row']:<44} {row['bits_per_weight']:7.3f} {row['kl_mean']:9.5f} [{low:9.5f},{high:9.5f}] "
            + (f"[{paired[0]:9.5f},{paired[1]:9.5f}]" if paired else " " * 21)
            + f" {row['ppl_quantized']:8.3f} {row['vq_share']['tensors']:5.2f} {sum(row['seconds'].values()):6.1f}"
        )
        if "lambada" in row:
            print(f"{'':<44} LAMBADA ppl {row['lambada']['ppl']:.1f}, accuracy {100 * row['lambada']['acc']:.2f} %")


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--lambada")
    parser.add_argument("--lambada-docs", type=int, default=None)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=list(GROUPS))
    args = parser.parse_args()
    with work_folder(args) as folder:
        rows = measure(args.model, args, folder)
    show(rows)
    if args.json:
        Path(args.json).write_text(json.dumps({"conditions": conditions(args), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
