"""Whether bfloat16 does harm: the same job with its text in float32 and in bfloat16, compared token by token on text not calibrated on.

    python benchmarks/forward_dtype.py MODEL.pth --tokenizer tokenizer.json --calib calib.txt --text eval.txt --json OUT.json

For the default method at 3.275 bits and, where errors are small, for GPTQ with 6 bits. A paired 95 % interval of the difference in KL
that includes 0 means that no harm is seen on this text. The original is read in float32 always.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from arguments import parser_for, work_folder
from quality import KEYS, conditions, quantize
from quality_rows import BITS, Row

from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.pipeline.forward import speed_of_bfloat16

DTYPES = ("float32", "bfloat16")
JOBS: dict[str, dict[str, Any]] = {f"rwkvquant {BITS}": {"bits": BITS}, "gptq, 6 bits": {"method": "gptq", "code_bits": 6}}


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    base, encode = load_model(args.model, args.tokenizer)
    cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
    rows = []
    for job, options in ((job, JOBS[job]) for job in args.jobs):
        models, made = {}, {}
        for dtype in DTYPES:
            own = folder / f"{job} {dtype}".replace(" ", "_")
            own.mkdir(exist_ok=True)
            file, made[dtype] = quantize(args.model, Row(f"{job} {dtype}", "forward", {**options, "forward_dtype": dtype}), args, own)
            models[dtype] = load_model(file, None)[0]
        compared = divergence.compare_many(base, models, cut)
        for dtype in DTYPES:
            found = compared[dtype].to_json()
            rows.append({"job": job, "forward_dtype": dtype, **made[dtype], **{key: found[key] for key in KEYS}})
        rows[-1]["bfloat16_minus_float32"] = divergence.difference(compared["bfloat16"], compared["float32"])["kl_difference_ci95"]
    return rows


def main() -> None:
    parser = parser_for(__doc__)
    parser.add_argument("--jobs", nargs="+", default=list(JOBS), choices=list(JOBS))
    args = parser.parse_args()
    with work_folder(args) as folder:
        rows = measure(args, folder)
    for row in rows:
        low, high = row.get("bfloat16_minus_float32", (float("nan"),) * 2)
        seconds = sum(row["seconds"].values())
        print(f"{row['job']:<18} {row['forward_dtype']:<9} KL {row['kl_mean']:.6f} difference [{low:+.6f}, {high:+.6f}] {seconds:.0f} s")
    if args.json:
        found = conditions(args) | {"bfloat16_over_float32": speed_of_bfloat16()}
        Path(args.json).write_text(json.dumps({"conditions": found, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
