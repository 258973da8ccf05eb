"""What each plain method costs in quality: KL divergence, perplexity and true bits on a text that was not calibrated on.

    python benchmarks/quality.py MODEL.pth [MODEL.pth ...] --tokenizer tokenizer.json --calib calib.txt --text eval.txt

Every row shares calibration, 8-bit element-wise vectors, and embedding and head in 16 bits, so the only difference is the row's
own. `--code-bits` are the bits of a code; the true bits per weight, side information and padding included, are measured from the
file and printed. The conditions go into the JSON beside the numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeConfig
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model

CLIPS = {"rtn": ("none", "weight"), "gptq": ("none", "hessian")}  # without, and with the search that is the method's default


def plain_configs(args: argparse.Namespace) -> dict[str, QuantizeConfig]:
    calibration = CalibrationConfig(path=args.calib, rows=args.calib_rows)
    return {
        f"{method} {bits} bit, clip {clip}": QuantizeConfig(
            method=method,
            code_bits=bits,
            clip_search=clip,
            head_bits=16,
            emb_bits=16,
            calibration=calibration,
            tokenizer=args.tokenizer,
        )
        for bits in args.code_bits
        for method in args.methods
        for clip in CLIPS[method]
    }


def measure(checkpoint: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    rows, models = [], {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, config in plain_configs(args).items():
            file = f"{scratch}/{len(rows)}.safetensors"
            started = time.perf_counter()
            report = rwkvquant.quantize(checkpoint, file, config)
            rows.append(
                {
                    "model": Path(checkpoint).stem,
                    "row": name,
                    "bits_per_weight": report["bits_per_weight"],
                    "seconds": time.perf_counter() - started,
                }
            )
            models[name] = load_model(file, None)[0]
        base, encode = load_model(checkpoint, args.tokenizer)
        cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
        compared = {name: found.to_json() for name, found in divergence.compare_many(base, models, cut).items()}
    return [row | {key: compared[row["row"]][key] for key in KEYS} for row in rows]


KEYS = ("kl_mean", "kl_ci95", "kl_p99", "top1_agreement", "ppl_base", "ppl_quantized", "tokens")


def conditions(args: argparse.Namespace) -> dict[str, Any]:
    def digest(path: str) -> str:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]

    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    return {
        "text": digest(args.text),
        "calibration": digest(args.calib),
        "calibration_rows": args.calib_rows,
        "models": {Path(m).stem: digest(m) for m in args.models},
        "torch": torch.__version__,
        "machine": platform.machine(),
        "commit": commit,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calib-rows", type=int, default=128)
    parser.add_argument("--max-tokens", type=int, default=None)
    parser.add_argument("--code-bits", type=int, nargs="+", default=[3, 4, 6])
    parser.add_argument("--methods", nargs="+", default=list(CLIPS), choices=list(CLIPS))
    parser.add_argument("--json", help="write rows and conditions here")
    args = parser.parse_args()
    rows = [row for model in args.models for row in measure(model, args)]
    print(f"{'model':<12} {'row':<26} {'bits/w':>7} {'KL':>9} {'95 % interval':>21} {'ppl':>8} {'top-1':>7} {'s':>6}")
    for row in rows:
        low, high = row["kl_ci95"]
        print(
            f"{row['model']:<12} {row['row']:<26} {row['bits_per_weight']:7.3f} {row['kl_mean']:9.5f} [{low:9.5f},{high:9.5f}] "
            f"{row['ppl_quantized']:8.3f} {row['top1_agreement']:7.4f} {row['seconds']:6.1f}"
        )
    for row in {row["model"]: row for row in rows}.values():
        print(f"{row['model']}: original ppl {row['ppl_base']:.3f} over {row['tokens']:,} tokens")
    if args.json:
        Path(args.json).write_text(json.dumps({"conditions": conditions(args), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
