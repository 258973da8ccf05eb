"""Vision-RWKV of released shapes: images a second and memory, packed in the native engine beside torch, on the same threads.

    python benchmarks/vision_speed.py --json OUT.json        # needs torch and 0.5 GB of disk

Random weights at 3.275 bits, as `rwkvquant bench --random vrwkv-s` writes them. The same weights, decoded, run in torch: in float32, and
with products in bfloat16 and all else in float32. One image of the model's own size at a time.

First the results are compared. Features of the engine with float32 activations must be those of torch within 1e-4 of the largest one;
`int8_error` is the same for int8 activations, which are then timed. After that each engine runs in turn, some rounds in one process;
speeds are medians of rounds. Torch's Bi-WKV is this project's own, a scan in about 2 sqrt(T) large steps. `without_wkv` leaves it out,
and so is a bound of what torch could reach with a perfect one.

Memory is measured in a process for each engine: the peak resident set of loading and reading an image, less what was there after the
imports. For torch the decoding of the packed file is not counted, only what is left of it.

    python benchmarks/vision_speed.py --quantize vrwkv-t:2 vrwkv-s:2 --json OUT.json

measures only how long quantising takes, here from two blocks of each (vision_quantize.py).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from roofline import conditions
from vision_quantize import seconds_to_quantize

from rwkvquant.architectures import architecture
from rwkvquant.config import DEFAULT_BITS
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels import dispatch
from rwkvquant.runtime.session import load
from rwkvquant.runtime.vision import VisionModel
from rwkvquant.runtime.weights import packed_weights

SHAPES = ("vrwkv-t", "vrwkv-s", "vrwkv-b", "vrwkv-l")
ENGINES = ("packed", "torch_fp32", "torch_bf16")
SAME = 1e-4  # of the largest feature: float32 sums in another order
SECONDS = 1.0  # of a round, at least


def picture(side: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)


class Decoded:
    """The weights of a packed file in torch, decoded to float32; matrices in bfloat16 if asked."""

    def __init__(self, path: str, bfloat: bool) -> None:
        import torch

        weights = packed_weights(open_packed(path))
        self.arch, self.dims, self.own = weights.arch, weights.dims, architecture(weights.arch)
        matrices = weights.matrices | {self.own.embedding.name: weights.embedding}
        kind = torch.bfloat16 if bfloat else torch.float32
        self.tensors = {name: torch.from_numpy(packed.decode()).to(kind) for name, packed in matrices.items()}
        self.tensors |= {name: torch.from_numpy(values.copy()) for name, values in weights.vectors.items()}

    def globals(self) -> dict[str, Any]:
        return {n: self.tensors[n] for n, spec, layer in self._used() if self.own.owner(spec, layer) is None}

    def block(self, index: int) -> dict[str, Any]:
        return {spec.name: self.tensors[n] for n, spec, layer in self._used() if self.own.owner(spec, layer) == index}

    def _used(self) -> list[Any]:
        return [each for each in self.own.used(self.dims.layers) if each[0] in self.tensors]


def torch_model(path: str, bfloat: bool) -> Any:
    from rwkvquant.models import ImageModel

    settings = open_packed(path).image
    assert settings is not None
    return ImageModel(Decoded(path, bfloat), settings)


def prepare_torch(threads: int) -> None:
    """Products of activations with a bfloat16 matrix are made in bfloat16."""
    import torch
    from torch.nn import functional

    from rwkvquant.models import vrwkv

    def linear(x: Any, W: Any) -> Any:
        return functional.linear(x, W) if W.dtype == x.dtype else functional.linear(x.to(W.dtype), W).to(x.dtype)

    torch.set_num_threads(threads)
    vrwkv.linear = linear
    for kind in (torch.float32, torch.bfloat16):  # its libraries take their own memory at the first product
        functional.linear(torch.ones(64, 64, dtype=kind), torch.ones(64, 64, dtype=kind))


def engine(name: str, path: str, threads: int) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """images -> features."""
    if name == "packed":
        packed = load(path, threads=threads, modality="image")
        return lambda images: np.stack(packed.features(images))
    model = torch_model(path, bfloat=name == "torch_bf16")
    return lambda images: model.features(images).numpy()


def memory(name: str, path: str, side: int, threads: int) -> dict[str, int]:
    """In its own process."""
    if name == "packed":
        dispatch.native_module()
    else:
        prepare_torch(threads)
    image, before = picture(side), status("VmRSS")
    run = engine(name, path, threads)
    if name != "packed":
        run(picture(16))  # ImageModel keeps weights from its first call on
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins again
    run(image)
    return {"bytes": status("VmHWM") - before, "process_bytes": status("VmHWM")}


def status(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def compare(packed: VisionModel, path: str, image: NDArray[np.uint8], threads: int) -> dict[str, float]:
    """Stops the benchmark if the results differ."""
    exact = torch_model(path, bfloat=False).features(image).numpy()
    largest = np.abs(exact).max()
    plain = np.stack(load(path, threads=threads, activations="float32", modality="image").features(image))
    one = np.stack(load(path, threads=1, modality="image").features(image))
    ours = np.stack(packed.features(image))
    found = {"float32_error": float(np.abs(plain - exact).max() / largest), "int8_error": float(np.abs(ours - exact).max() / largest)}
    if packed.backend == "reference" or not np.isfinite(ours).all() or found["float32_error"] > SAME or (one != ours).any():
        sys.exit(f"{path}: the results differ, or not with the native engine: {found}, {packed.backend}")
    return found


def speeds(path: str, image: NDArray[np.uint8], threads: int, rounds: int) -> dict[str, Any]:
    """By engine: images a second, the median of the rounds and all of them; and the least processor time of an image, of all threads."""
    from rwkvquant.models import vrwkv

    scan = vrwkv.bi_wkv
    runs = {name: engine(name, path, threads) for name in ENGINES}

    def without_wkv() -> None:
        vrwkv.bi_wkv = lambda w, u, k, v: v
        try:
            runs["torch_fp32"](image)
        finally:
            vrwkv.bi_wkv = scan

    timed: dict[str, Callable[[], Any]] = {name: lambda run=run: run(image) for name, run in runs.items()}
    timed["torch_fp32_without_wkv"] = without_wkv
    found: dict[str, list[float]] = {name: [] for name in timed}
    busy: dict[str, list[float]] = {name: [] for name in timed}
    for run in timed.values():
        run()
    for _ in range(rounds):
        for name, run in timed.items():
            count, started, used = 0, time.perf_counter(), time.process_time()
            while count == 0 or time.perf_counter() - started < SECONDS:
                run()
                count += 1
            found[name].append(count / (time.perf_counter() - started))
            busy[name].append((time.process_time() - used) / count)
    return {
        name: {
            "images_s": statistics.median(each),
            "rounds": [round(value, 3) for value in each],
            "cpu_ms": round(1000 * min(busy[name]), 2),
        }
        for name, each in found.items()
    }


def measure(shape: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    path = str(folder / f"{shape}.safetensors")
    child([sys.executable, "-m", "rwkvquant.bench.random_model", path, shape, options.layouts, options.bits, 0.1])
    packed = load(path, threads=options.threads, modality="image")
    side = packed.settings.grid[0] * packed.dims.patch
    image, opened = picture(side), open_packed(path)
    row: dict[str, Any] = {"shape": shape, "side": side, "file_bytes": opened.file_bytes}
    row |= {"bits_per_weight": opened.ledger().bits_per_weight, "backend": packed.backend, "threads": packed.threads}
    row |= compare(packed, path, image, options.threads)
    load_before = os.getloadavg()[0]
    row["speed"] = speeds(path, image, options.threads, options.rounds)
    row["load"] = [round(load_before, 1), round(os.getloadavg()[0], 1)]
    settings = ["--threads", options.threads, "--side", side]
    row["memory"] = {name: json.loads(child([sys.executable, __file__, "--child", name, path, *settings])) for name in ENGINES}
    Path(path).unlink()
    return row


def child(command: list[Any]) -> str:
    done = subprocess.run([str(part) for part in command], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command[:4]))} ended with {done.returncode}")
    return done.stdout


def show(rows: list[dict[str, Any]]) -> None:
    three = f"{'fp32':>7}{'bf16':>7}"
    print(f"{'':<9}{'file MB':>8}{'memory MB: packed':>19}{three}{'images/s: packed':>18}{three}{'fp32 without Bi-WKV':>21}")
    for row in rows:
        held, speed = row["memory"], row["speed"]
        print(f"{row['shape']:<9}{row['file_bytes'] / 1e6:>8.1f}{held['packed']['bytes'] / 1e6:>19.1f}", end="")
        print("".join(f"{held[name]['bytes'] / 1e6:>7.0f}" for name in ENGINES[1:]), end="")
        print(f"{speed['packed']['images_s']:>18.2f}", end="")
        print("".join(f"{speed[name]['images_s']:>7.2f}" for name in ENGINES[1:]), end="")
        print(f"{speed['torch_fp32_without_wkv']['images_s']:>21.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=SHAPES, help=f"default: {' '.join(SHAPES)}")
    parser.add_argument("--layouts", default="default", help="of the packed files: default, rows, uniform, codebook, paper or pairs")
    parser.add_argument("--bits", type=float, default=DEFAULT_BITS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--quantize", nargs="+", metavar="SHAPE[:BLOCKS]", help="measure how long quantising takes, whole or by a few blocks"
    )
    parser.add_argument("--calib-rows", type=int, default=128, help="calibration images of --quantize")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("ENGINE", "FILE"), help=argparse.SUPPRESS)
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(memory(*options.child, options.side, options.threads)))
        return
    import torch

    if options.quantize:
        rows = [seconds_to_quantize(each, options.calib_rows) for each in options.quantize]
        if options.json:
            said = {"threads": 1, "bits": DEFAULT_BITS, "torch": torch.__version__}
            options.json.write_text(json.dumps({"conditions": conditions() | said, "rows": rows}, indent=1) + "\n")
        return
    prepare_torch(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(shape, Path(folder), options) for shape in options.shapes]
    show(rows)
    if options.json:
        said = {"threads": options.threads, "layouts": options.layouts, "bits": options.bits, "torch": torch.__version__}
        options.json.write_text(json.dumps({"conditions": conditions() | said, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
