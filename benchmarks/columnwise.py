"""What matrices stored by columns lose (codecs columnwise and sections): the matrices with a squared ReLU as input, and whole models.

    python benchmarks/columnwise.py MODEL.pth --tokenizer tokenizer.json --calib calib.txt --text eval.txt --json OUT.json

Two parts. `layers`: each such matrix by each candidate, on full-precision inputs: held-out loss tr(E H E^T) / tr(W H W^T) at true stored
bits. `models`: KL divergence of whole models at 3.275 true bits, with other candidates for these matrices; each is compared with the row
"dense" token by token on the same windows. The share of activations that are not zero, and the bytes that a token reads, are measured on
the text that both parts are judged by.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from arguments import parser_for, work_folder
from quality import Clock, conditions
from torch import Tensor

import rwkvquant
from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.calibration.collect import HiddenStates, advance, collect_block
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import CodebookConfig, ColumnwiseConfig, GridConfig, PairConfig, SectionsConfig
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.formats.container import open_packed
from rwkvquant.models import CheckpointSource, forward_of
from rwkvquant.pipeline.matrices import quantize_matrix
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.recipes import Setting, recipe_for
from rwkvquant.runtime.tokenizer import load_tokenizer

BITS = 3.275
LENGTH = 512
SECTIONS = (2, 2.5, 3, 3.5, 4, 5)
SETTINGS = (
    *(Setting("gptq", GridConfig(bits, group)) for bits in (2, 3, 4) for group in (128, 64, 32)),
    *(Setting("gptvq", CodebookConfig(bits, rows, rank)) for bits, rows, rank in ((2, 16, 0), (2, 4, 0), (3, 16, 0), (3, 4, 4))),
    *(Setting("gptvq", PairConfig(bits, 16)) for bits in (4, 6, 8)),
    *(Setting("gptvq", ColumnwiseConfig(bits)) for bits in (2, 3, 4)),
    *(Setting("gptvq", SectionsConfig(bits)) for bits in (2, 2.5, 3, 3.5, 4)),
)


def moments(checkpoint: Any, encode: Any, text: str, rows: int) -> Iterator[tuple[str, Tensor, Tensor, float]]:
    """(name, W, H, share of activations that are not zero) of every matrix whose input is a squared ReLU, block by block."""
    tokens = torch.from_numpy(calibration_rows(load_documents(text), encode, rows, LENGTH, 0))
    source, model, architecture = CheckpointSource(checkpoint, torch.device("cpu")), forward_of(checkpoint.arch), checkpoint.architecture
    (spec,) = (each for each in architecture.table if each.nonnegative_input)
    with tempfile.TemporaryDirectory() as folder:
        stream = HiddenStates(folder, rows, LENGTH, checkpoint.dims.width, architecture.carry is not None)
        stream.fill(lambda chosen: model.embed(source.globals(), tokens[chosen]), 8)
        for layer in range(checkpoint.dims.layers):
            weights, shares = source.block(layer), list[float]()
            statistics = collect_block(model.block, weights, architecture, stream, 8, tap=share_above_zero(str(spec.input), shares))
            yield architecture.full_name(layer, spec.name), weights[spec.name], statistics[str(spec.input)].H, sum(shares) / len(shares)
            advance(model.block, weights, stream, 8)


def share_above_zero(wanted: str, shares: list[float]) -> Callable[[str, Tensor], None]:
    def hear(name: str, x: Tensor) -> None:
        if name == wanted:
            shares.append(float((x > 0).float().mean()))

    return hear


def layers(args: argparse.Namespace) -> list[dict[str, Any]]:
    checkpoint = open_checkpoint(args.model)
    encode = load_tokenizer(args.tokenizer, checkpoint.dims.vocab)
    held_out = {name: (H, share) for name, _, H, share in moments(checkpoint, encode, args.text, args.rows)}
    rows = []
    for layer, (name, W, H, _) in enumerate(moments(checkpoint, encode, args.calib, args.calib_rows)):
        if args.layers and layer not in args.layers:
            continue
        hessian, (judge, share) = Hessian(H, torch.float32), held_out[name]
        for setting in SETTINGS:
            started = time.process_time()
            quantised = quantize_matrix(setting, QuantizerOptions(), W.float(), hessian)
            seconds = time.process_time() - started
            loss = hessian_error(W.float(), quantised.decode(), judge.float())
            bits = 8 * setting.stored_bytes(W.shape) / W.numel()
            rows.append(
                {
                    "matrix": name,
                    "setting": f"{setting.method} {setting.codec.to_json()}",
                    "bits": bits,
                    "loss": loss,
                    "density": share,
                    "seconds": seconds,
                }
            )
        print(f"  {name}: {100 * share:.1f} % of its inputs are not zero", flush=True)
    return rows


def variants(args: argparse.Namespace) -> dict[str, Any]:
    """Recipes of the default that differ in the candidates of the matrices with a squared ReLU as input."""
    calibration = CalibrationConfig(path=args.calib, rows=args.calib_rows)
    dense = recipe_for(QuantizeRequest(bits=BITS, head_bits=16, emb_bits=16, calibration=calibration, tokenizer=args.tokenizer))
    dense = replace(dense, sparse_input=())
    sections = tuple(Setting("gptvq", SectionsConfig(bits)) for bits in SECTIONS)
    one_width = tuple(Setting("gptvq", ColumnwiseConfig(bits)) for bits in (2, 3, 4))
    return {
        "dense": dense,
        "sections only": replace(dense, sparse_input=sections),
        "sections as well": replace(dense, sparse_input=(*dense.candidates, *sections)),
        "columnwise only": replace(dense, sparse_input=one_width),
    }


def models(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    files, base = {}, "dense"
    for name, recipe in variants(args).items():
        if args.only and name not in args.only:
            continue
        work, clock = folder / name.replace(" ", "_"), Clock()
        work.mkdir(exist_ok=True)
        file = files[name] = work / "model.safetensors"
        kept = work / "row.json"  # an interrupted run continues where it stopped
        if kept.exists():
            rows.append(json.loads(kept.read_text()))
            continue
        report = rwkvquant.quantize(args.model, file, recipe, progress=clock, work_dir=work)
        packed = open_packed(file)
        kinds = [entry.layout for entry in packed.tensors.values() if packed.architecture.reads_nonnegative(entry.name, packed.tensors)]
        rows.append({"row": name, "bits_per_weight": report.bits_per_weight, "layouts": kinds, "seconds": dict(clock.seconds)})
        kept.write_text(json.dumps(rows[-1]))
        print(f"  {name}: {report.bits_per_weight:.3f} bits, {sum(clock.seconds.values()):.0f} s", flush=True)
    original, encode = load_model(args.model, args.tokenizer)
    cut = windows.text_windows(args.text, encode, max_tokens=args.max_tokens)
    compared = divergence.compare_many(original, {name: load_model(str(file))[0] for name, file in files.items()}, cut)
    for row in rows:
        measured = compared[row["row"]].to_json()
        row |= {key: measured[key] for key in ("kl_mean", "kl_ci95", "ppl_quantized", "tokens")}
        if row["row"] != base:
            row["this_minus_dense"] = divergence.difference(compared[row["row"]], compared[base])["kl_difference_ci95"]
        print(row["row"], f"{row['bits_per_weight']:.3f} {1000 * row['kl_mean']:.3f}", row.get("this_minus_dense", ""), flush=True)
    return rows


def main() -> None:
    parser = parser_for(__doc__, max_tokens=61440)
    parser.add_argument("--rows", type=int, default=48, help="rows of 512 tokens of the held-out text, for the losses of single matrices")
    parser.add_argument("--layers", type=int, nargs="+", help="single matrices of these layers only")
    parser.add_argument("--parts", nargs="+", default=["layers", "models"], choices=["layers", "models"])
    parser.add_argument("--only", nargs="+", help="these rows of the models")
    args = parser.parse_args()
    result: dict[str, Any] = {"conditions": conditions(args)}
    with work_folder(args) as folder:
        for part in args.parts:
            result[part] = layers(args) if part == "layers" else models(args, folder)
            if args.json:
                Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
