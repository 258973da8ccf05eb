"""A big checkpoint on a small machine: how long quantising takes, what it holds in memory, and what share of it is matrix products.

    python benchmarks/big_checkpoint.py x070-1.5b --json OUT.json                      # the default method; needs 15 GB of disk
    python benchmarks/big_checkpoint.py x070-1.5b --method gptq --code-bits 3 --json OUT.json
    python benchmarks/big_checkpoint.py x060-14b --layers 2 --json OUT.json            # the true widths, two blocks of 61

Random weights of a released shape are streamed to disk and quantised, calibrated on the package's text. All files are removed at the end.
The quality of a random model means nothing, but its cost is that of a trained one.

Anonymous memory (RssAnon) is what the process asked for; total RSS also counts pages of mapped files, which the system may take back.
Both are sampled 20 times a second. FLOPs are those of torch's matrix products, two a weight and row.
The share is FLOPs / (seconds x rate), where the rate is that of 2048 x 2048 products just before the run, by processor time. Seconds are
wall time and the processor time of all threads together. Where other programs use the machine, look at the processor time.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:  # as the command line does, before torch is imported
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch
from random_pth import write_random_pth
from roofline import conditions
from torch.utils._python_dispatch import TorchDispatchMode

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.bench.shapes import released
from rwkvquant.config import FORWARD_DTYPES
from rwkvquant.pipeline import forward
from rwkvquant.pipeline.products import fast_products, product_rate
from rwkvquant.pipeline.progress import Progress

SAMPLES_A_SECOND = 20


class Memory(threading.Thread):
    """The peaks of RssAnon and of VmRSS, in bytes, since the phase began."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peaks: dict[str, dict[str, int]] = {}
        self.phase = "start"

    def run(self) -> None:
        while True:
            self.sample()
            time.sleep(1 / SAMPLES_A_SECOND)

    def sample(self) -> None:
        fields = dict(re.findall(r"^(RssAnon|VmRSS):\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE))
        peak = self.peaks.setdefault(self.phase, {"anonymous": 0, "rss": 0})
        peak["anonymous"] = max(peak["anonymous"], 1024 * int(fields["RssAnon"]))
        peak["rss"] = max(peak["rss"], 1024 * int(fields["VmRSS"]))

    def most(self, kind: str) -> int:
        return max(peak[kind] for peak in self.peaks.values())


class Products(TorchDispatchMode):
    """Counts the FLOPs of all products: of the forward, the backward pass and the quantisers."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "bmm"):
            self.flops += 2 * args[0].numel() * args[1].shape[-1]
        elif name in ("addmm", "addmm_", "baddbmm", "baddbmm_"):
            self.flops += 2 * args[1].numel() * args[2].shape[-1]
        return func(*args, **(kwargs or {}))


class Meter(Progress):
    """Seconds, FLOPs and memory of each kind of phase. All blocks are added up."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self.notes: list[str] = []
        self.products, self.memory = Products(), Memory()
        self._now, self._since = "reading", self._clock()

    def __enter__(self) -> Meter:
        self.memory.start()
        self.products.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.products.__exit__(*error)
        self._turn("end")

    def phase(self, what: str, steps: int = 0) -> None:
        print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)
        self._turn(re.sub(r" \d+ of \d+", "", what))

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def _clock(self) -> tuple[float, float, float]:
        return time.perf_counter(), time.process_time(), self.products.flops

    def _turn(self, name: str) -> None:
        now = self._clock()
        phase = self.phases.setdefault(self._now, {"seconds": 0.0, "processor_seconds": 0.0, "flops": 0.0})
        for key, end, start in zip(phase, now, self._since, strict=True):
            phase[key] += end - start
        self._now, self._since, self.memory.phase = name, now, name


def run(path: Path, folder: Path, request: QuantizeRequest) -> dict[str, Any]:
    with fast_products(torch.device("cpu")):
        rate = product_rate(2.0)
    with Meter() as meter:
        result = rwkvquant.quantize(path, folder / "out.safetensors", request, progress=meter, work_dir=folder).to_json()
    for name, phase in meter.phases.items():
        phase |= {f"{kind}_bytes": peak for kind, peak in meter.memory.peaks.get(name, {}).items()}
    total = {key: sum(phase[key] for phase in meter.phases.values()) for key in ("seconds", "processor_seconds", "flops")}
    return {
        "total": total | {"anonymous_bytes": meter.memory.most("anonymous"), "rss_bytes": meter.memory.most("rss")},
        "products_flops_per_processor_second": rate,
        "phases": meter.phases,
        "notes": meter.notes,
        **{key: result[key] for key in ("bits_per_weight", "bits_per_weight_file", "file_bytes")},
        "fallen_back": len(result["fallen_back"]),
    }


def show(report: dict[str, Any]) -> None:
    rate, threads = report["products_flops_per_processor_second"], report["threads"]
    print(f"products run at {rate / 1e9:.0f} GFLOP a processor second here; share = FLOPs / (seconds x that), by wall and processor time")
    print(f"{'phase':<34} {'wall s':>8} {'cpu s':>8} {'TFLOP':>8} {'share':>12} {'anon MB':>8} {'RSS MB':>8}")
    for name, row in [*report["phases"].items(), ("total", report["total"])]:
        shares = [row["flops"] / max(1e-9, seconds) / rate for seconds in (row["seconds"] * threads, row["processor_seconds"])]
        memory = [row.get(f"{kind}_bytes", 0) / 1e6 for kind in ("anonymous", "rss")]
        print(
            f"{name:<34} {row['seconds']:8.1f} {row['processor_seconds']:8.1f} {row['flops'] / 1e12:8.2f} "
            f"{shares[0]:5.0%} {shares[1]:5.0%} {memory[0]:8.0f} {memory[1]:8.0f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape")
    parser.add_argument("--layers", type=int, help="this many blocks only, of the true widths")
    parser.add_argument("--vocab", type=int, help="this many tokens only, to time the blocks alone")
    parser.add_argument("--method", default="rwkvquant")
    parser.add_argument("--code-bits", type=int)
    parser.add_argument("--forward-dtype", default="auto", choices=FORWARD_DTYPES)
    parser.add_argument("--calib-rows", type=int, default=64)
    parser.add_argument(
        "--work-dir", help="where the checkpoint, hidden states and output go: in a new folder there, which is removed at the end"
    )
    parser.add_argument("--json", help="write what was measured here")
    args = parser.parse_args()
    arch, dims = released(args.shape)
    blocks = args.layers or dims.layers
    forward.LARGE_MODEL = forward.LARGE_MODEL * blocks // dims.layers  # a few blocks are measured as they would be in the whole model
    dims = dataclasses.replace(dims, layers=blocks, vocab=args.vocab or dims.vocab)
    request = QuantizeRequest(
        method=args.method,
        code_bits=args.code_bits,
        calibration=CalibrationConfig(rows=args.calib_rows),
        forward_dtype=args.forward_dtype,
        tokenizer="bytes" if args.vocab else "world",
    )
    with tempfile.TemporaryDirectory(dir=args.work_dir) as scratch:
        path = Path(scratch) / f"{args.shape}.pth"
        write_random_pth(path, arch, dims)
        size = path.stat().st_size
        print(f"{args.shape}, {dims.layers} blocks: {size / 1e9:.2f} GB, written", flush=True)
        report = {"shape": args.shape, "blocks": dims.layers, "checkpoint_bytes": size, "threads": torch.get_num_threads()}
        report |= {"calibration_tokens": args.calib_rows * 512} | run(path, Path(scratch), request)
    show(report)
    if args.json:
        report["conditions"] = conditions() | {"torch": torch.__version__, "threads": torch.get_num_threads()}
        report["options"] = {"method": args.method, "code_bits": args.code_bits}
        Path(args.json).write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
