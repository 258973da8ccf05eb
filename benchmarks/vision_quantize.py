"""How long quantising a Vision-RWKV model of a released shape takes. `vision_speed.py --quantize` uses this file.

Random weights of the shape (random_pth.py), random images of the model's own size, the default method at its default bits. Seconds are
processor time of the whole process with one thread, so other programs on the machine change them little. Importing torch and writing the
random files are not counted.

A large model need not be quantised whole: a few blocks of the true width are, each number of them in a process of its own, and the rest
is worked out. From one number of blocks the seconds are taken as proportional, so what is outside the blocks counts more often than it
should. From several, a line goes through the first and the last.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.bench.shapes import released


def seconds_to_quantize(wanted: str, calib_rows: int) -> dict[str, Any]:
    """`wanted`: a shape, which is quantised whole, or a shape and numbers of blocks, such as "vrwkv-b:2,4"."""
    shape, _, numbers = wanted.partition(":")
    layers = released(shape)[1].layers
    measured = [_in_a_process(shape, int(blocks), calib_rows) for blocks in (numbers or str(layers)).split(",")]
    return {"shape": shape, "blocks": layers, "calib_rows": calib_rows, "measured": measured, "cpu_seconds": _of_all(layers, measured)}


def _of_all(layers: int, measured: list[dict[str, Any]]) -> float:
    first, last = measured[0], measured[-1]
    if first["blocks"] == last["blocks"]:
        return round(first["cpu_seconds"] * layers / first["blocks"], 1)
    slope = (last["cpu_seconds"] - first["cpu_seconds"]) / (last["blocks"] - first["blocks"])
    return round(first["cpu_seconds"] + slope * (layers - first["blocks"]), 1)


def _in_a_process(shape: str, blocks: int, calib_rows: int) -> dict[str, Any]:
    command = [sys.executable, __file__, shape, str(blocks), str(calib_rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode != 0:
        sys.exit(f"quantising {blocks} blocks of {shape} ended with {done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{shape}: {blocks} blocks, {result['cpu_seconds']} CPU seconds", file=sys.stderr, flush=True)
    return result


def quantize(shape: str, blocks: int, calib_rows: int) -> dict[str, Any]:
    """In its own process: one model of `blocks` blocks."""
    import torch
    from random_pth import write_random_pth

    import rwkvquant
    from rwkvquant import CalibrationConfig, QuantizeRequest
    from rwkvquant.pipeline import forward

    torch.set_num_threads(1)
    arch, dims = released(shape)
    side = round(dims.positions**0.5) * dims.patch
    forward.LARGE_MODEL = forward.LARGE_MODEL * blocks // dims.layers  # the type of products is that of the whole model
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_random_pth(folder / "model.pth", arch, dataclasses.replace(dims, layers=blocks))
        images = np.random.default_rng(0).integers(0, 256, (calib_rows, side, side, 3), dtype=np.uint8)
        np.savez(folder / "images.npz", images=images)
        request = QuantizeRequest(calibration=CalibrationConfig(path=str(folder / "images.npz"), rows=calib_rows))
        started, wall = time.process_time(), time.perf_counter()
        report = rwkvquant.quantize(folder / "model.pth", folder / "out.safetensors", request, work_dir=folder)
        return {
            "blocks": blocks,
            "cpu_seconds": round(time.process_time() - started, 1),
            "wall_seconds": round(time.perf_counter() - wall, 1),
            "bits_per_weight": report.bits_per_weight,
            "file_bytes": report.file_bytes,
            "peak_rss_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }


if __name__ == "__main__":
    print(json.dumps(quantize(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))))
