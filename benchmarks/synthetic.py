"""Where codebooks (VQ) are better than uniform grids (SQ), and where not: random matrices of known distributions, at true stored bits.

    python benchmarks/synthetic.py [--size 1024] [--json benchmarks/results/synthetic.json]

    W  (size, size)  drawn, scaled to one standard deviation, rounded to float16 as a checkpoint would be
    H  (size, size)  of a made-up input: eigenvalues 1/k in random directions, then channels of uneven size
    mse = |W - Q|^2 / |W|^2        loss = tr((W - Q) H (W - Q)^T) / tr(W H W^T)

Settings do not have the same bits. So each family is read at 3.25 bits, on the straight line (in the logarithm of the error) between two of
its settings: this is the error of a mix of tensors with the one and the other. The script also prints what RWKVQuant's proxies say of the
same matrices, and what its fixed thresholds would choose.

What is given up: the weights are independent. Rows and columns of trained matrices differ in size, which is better for formats whose
groups have their own scales.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkvquant.codecs import CodebookConfig, CodebookTensor, Codec, GridConfig, PairCodebookTensor, PairConfig, UniformTensor
from rwkvquant.quantizers.codebook.compressed import kmeans_compressed
from rwkvquant.quantizers.codebook.gptvq import gptvq_with
from rwkvquant.quantizers.codebook.kmeans import kmeans_codebooks
from rwkvquant.quantizers.codebook.paper import gptvq_paper_with
from rwkvquant.quantizers.pairs.gptvq import factorize_pairs, gptvq_pairs_with, pair_codebooks
from rwkvquant.quantizers.shared.factor import InverseFactor, factorize
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.quantizers.uniform.gptq import gptq_with
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.algorithm1 import FIXED_THRESHOLDS, choose
from rwkvquant.selection.proxy import READINGS, proxies

SEED = 0
BITS = 3.25
STD = 0.02
PROXY_STDS = (0.02, 0.3)  # the proxies see the number format, so also the size of the weights
SOURCES: dict[str, Callable[[np.random.Generator, tuple[int, int]], NDArray[np.float64]]] = {
    "uniform": lambda rng, shape: rng.uniform(-1, 1, shape),
    "Gaussian": lambda rng, shape: rng.standard_normal(shape),
    "Laplace": lambda rng, shape: rng.laplace(size=shape),
    "Student-t(4)": lambda rng, shape: rng.standard_t(4, shape),
    "outliers": lambda rng, shape: rng.standard_normal(shape) * np.where(rng.random(shape) < 0.005, 8, 1),  # one weight in 200
}

# Each family also has the next larger code, so that the line to 3.25 bits is equally long in all of them.
GRIDS = (*(GridConfig(3, group) for group in (128, 64, 32)), GridConfig(4, 128))
CODEBOOKS = (*(CodebookConfig(3, rows) for rows in (16, 8, 4, 2)), CodebookConfig(4, 16))
COMPRESSED = (
    *(CodebookConfig(3, rows, rank) for rows, rank in ((8, 4), (4, 4), (2, 4), (4, 2), (2, 2))),
    CodebookConfig(4, 8, 4),
)
PAIRS = (PairConfig(6, 64), PairConfig(6, 16), PairConfig(7, 64))
PAPER = (GridConfig(3, 64, scale_bits=16), GridConfig(3, 32, scale_bits=16), CodebookConfig(3, 4, 4), CodebookConfig(3, 2, 4))

Quantised = UniformTensor | CodebookTensor | PairCodebookTensor


@dataclass(frozen=True)
class Row:
    """One matrix by one method and setting; bits per weight as stored, with all side information."""

    source: str
    method: str
    family: str
    setting: str
    bits: float
    mse: float
    loss: float
    seconds: float


@dataclass(frozen=True)
class Input:
    """H (size, size), and its factors as the tuned methods and as the paper use it."""

    H: Tensor
    tuned: InverseFactor
    of_pairs: InverseFactor
    paper: InverseFactor

    @classmethod
    def of(cls, H: Tensor) -> Input:
        return cls(
            H,
            factorize(H, damping=0.05, act_order=True),
            factorize_pairs(H, damping=0.05, act_order=True),
            factorize(H, damping=0.01, act_order=False),
        )


def draw(source: str, size: int, std: float) -> NDArray[np.float32]:
    """(size, size), rounded to float16."""
    W = SOURCES[source](np.random.default_rng(SEED), (size, size))
    return (W * (std / W.std())).astype(np.float16).astype(np.float32)


def made_up_hessian(size: int) -> Tensor:
    """(size, size) float32: correlated, with a few directions and a few channels that matter most."""
    rng = np.random.default_rng(SEED + 1)
    directions = np.linalg.qr(rng.standard_normal((size, size)))[0]
    channels = np.exp(0.5 * rng.standard_normal(size))
    root = channels[:, None] * directions * np.sqrt(1 / np.arange(1, size + 1))
    return torch.from_numpy((root @ root.T).astype(np.float32))


def methods(x: Input) -> Iterator[tuple[str, str, tuple[Codec, ...], Callable[[Codec, Tensor], Quantised]]]:
    """(method, family, settings, quantiser)."""
    yield "RTN", "grid", GRIDS, lambda c, W: rtn(W, c)
    yield "RTN, clip search", "grid", GRIDS, lambda c, W: rtn(W, c, "weight")
    yield "k-means", "codebook", CODEBOOKS, lambda c, W: kmeans_codebooks(W, c.bits, c.group_rows)
    yield "k-means", "compressed", COMPRESSED, lambda c, W: kmeans_compressed(W, c.bits, c.group_rows, rank=c.rank)
    yield "k-means", "pairs", PAIRS, lambda c, W: pair_codebooks(W, c.bits, c.group_rows)
    yield "GPTQ", "grid", GRIDS, lambda c, W: gptq_with(x.tuned, W, c, static_groups=True)
    yield "GPTQ, clip search", "grid", GRIDS, lambda c, W: _clipped(x, c, W)
    yield "GPTQ, tuned", "grid", GRIDS, lambda c, W: refine_grid(W, x.H, _clipped(x, c, W))
    for family, codecs in (("codebook", CODEBOOKS), ("compressed", COMPRESSED)):
        yield "GPTVQ", family, codecs, lambda c, W: gptvq_with(x.tuned, W, x.H, c.bits, c.group_rows, rank=c.rank)
    yield "GPTVQ", "pairs", PAIRS, lambda c, W: gptvq_pairs_with(x.of_pairs, W, x.H, c.bits, c.group_rows)
    yield "the paper's GPTQ", "grid", PAPER[:2], lambda c, W: gptq_with(x.paper, W, c)
    yield "the paper's GPTVQ", "compressed", PAPER[2:], lambda c, W: gptvq_paper_with(x.paper, W, x.H, c.bits, c.group_rows, rank=c.rank)


def _clipped(x: Input, grid: GridConfig, W: Tensor) -> UniformTensor:
    return gptq_with(x.tuned, W, grid, clip_search="hessian", static_groups=True)


def measure(source: str, size: int, x: Input) -> Iterator[Row]:
    W = torch.from_numpy(draw(source, size, STD))
    flat = torch.eye(size)
    for method, family, codecs, quantise in methods(x):
        for codec in codecs:
            started = time.perf_counter()
            Q = quantise(codec, W).decode()
            seconds = time.perf_counter() - started
            bits = 8 * Setting("", codec).stored_bytes((size, size)) / W.numel()
            yield Row(source, method, family, name_of(codec), bits, hessian_error(W, Q, flat), hessian_error(W, Q, x.H), seconds)


def name_of(codec: Codec) -> str:
    if isinstance(codec, GridConfig):
        return f"{codec.bits} bits, g{codec.group_size}" + (", float16 scales" if codec.scale_bits == 16 else "")
    if isinstance(codec, PairConfig):
        return f"{codec.bits} bits a pair, {codec.group_rows} rows"
    return f"{codec.bits} bits, {codec.group_rows} x 32" + (f", rank {codec.rank}" if codec.rank else "")


def at_bits(points: list[tuple[float, float]], bits: float = BITS) -> float:
    """(bits, error) of a family's settings -> the least error at `bits` on a line between two of them, or of one below."""
    below, above = [p for p in points if p[0] <= bits], [p for p in points if p[0] > bits]
    found = [error for _, error in below]
    for low, low_error in below:
        for high, high_error in above:
            share = (bits - low) / (high - low)
            found.append(math.exp((1 - share) * math.log(low_error) + share * math.log(high_error)))
    return min(found)


FEEDBACK = ("GPTQ", "GPTQ, clip search", "GPTQ, tuned", "GPTVQ")
PLAIN = ("RTN", "RTN, clip search", "k-means")


def verdict(rows: list[Row], source: str) -> dict[str, dict[str, float]]:
    """The best of each family at 3.25 bits: without feedback by mse, with it by loss."""
    found: dict[str, dict[str, float]] = {}
    for measured, allowed in (("mse", PLAIN), ("loss", FEEDBACK)):
        families: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            if row.source == source and row.method in allowed:
                families.setdefault(row.family, []).append((row.bits, getattr(row, measured)))
        found[measured] = {family: at_bits(points) for family, points in families.items()}
    return found


def proxies_of(source: str, size: int) -> list[dict[str, object]]:
    found = []
    for std in PROXY_STDS:
        W = draw(source, size, std)
        for reading in READINGS:
            p = proxies(W, reading, "float16", SEED)
            pair = (p.coarse, p.fine())
            chosen = choose({source: pair}, FIXED_THRESHOLDS["paper-rwkv7"])[source]
            found.append({"source": source, "std": std, "reading": reading, "coarse": pair[0], "fine": pair[1], "fixed_thresholds": chosen})
    return found


def show(rows: list[Row], verdicts: dict[str, dict[str, dict[str, float]]], scores: list[dict[str, object]]) -> None:
    names = list(verdicts)
    width = max(len(name) for name in names) + 1
    for measured, allowed in (("mse", PLAIN), ("loss", (*FEEDBACK, "the paper's GPTQ", "the paper's GPTVQ"))):
        print(f"\n{measured} x 1000" + " " * 52 + "bits  " + "  ".join(f"{name:>{width}}" for name in names))
        keys = dict.fromkeys((row.method, row.setting, row.bits) for row in rows if row.method in allowed)
        for method, setting, bits in keys:
            cells = {row.source: getattr(row, measured) for row in rows if (row.method, row.setting, row.bits) == (method, setting, bits)}
            print(f"{method:<20} {setting:<38} {bits:6.3f}  " + "  ".join(f"{1e3 * cells[name]:{width}.2f}" for name in names))
    print(f"\nat {BITS} bits, and the error in units of the grid's")
    for name, both in verdicts.items():
        for measured, families in both.items():
            best = min(families, key=lambda family: families[family])
            ratios = "  ".join(f"{family} {families[family] / families['grid']:.3f}" for family in families)
            print(f"{name:<14} {measured:<5} {best} wins; grid {1e3 * families['grid']:.2f}e-3; {ratios}")
    print(f"\n{'source':<14} {'std':>5} {'reading':<9} {'P_c':>7} {'P_f':>9}  fixed thresholds {FIXED_THRESHOLDS['paper-rwkv7']}")
    for score in scores:
        print("{source:<14} {std:5.2f} {reading:<9} {coarse:7.3f} {fine:9.2e}  {fixed_thresholds}".format(**score))


def conditions(size: int) -> dict[str, object]:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return {
        "size": size,
        "seed": SEED,
        "std": STD,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
        "commit": subprocess.run(command, capture_output=True, text=True).stdout.strip(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, help="at least 512: in narrower matrices the row scales take all bits below 3.25")
    parser.add_argument("--json", help="write rows, verdicts, proxies and conditions here")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    x = Input.of(made_up_hessian(args.size))
    rows: list[Row] = []
    for source in SOURCES:
        rows += measure(source, args.size, x)
        print(f"{source}: {time.perf_counter() - started:.0f} s", flush=True)
    verdicts = {source: verdict(rows, source) for source in SOURCES}
    scores = [score for source in SOURCES for score in proxies_of(source, args.size)]
    show(rows, verdicts, scores)
    if args.json:
        result = {
            "conditions": conditions(args.size),
            "rows": [dataclasses.asdict(row) for row in rows],
            "at_bits": {"bits": BITS, **verdicts},
            "proxies": scores,
        }
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
