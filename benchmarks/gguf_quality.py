"""What llama.cpp's block types cost in quality: rounded by llama-quantize with an importance matrix, and by `export --gguf-type`.

    pip install gguf cmake ninja          # besides rwkvquant; the last two only to build llama.cpp
    python benchmarks/gguf_quality.py MODEL.pth --tokenizer FILE --calib calib.txt --text eval.txt --build-dir /tmp/llama --json OUT.json

llama-imatrix and rwkvquant read the same rows of the calibration text; llama-imatrix gets them as a text and cuts it into tokens again.
It also measures the head (--process-output), which its users seldom ask for. llama-quantize starts from a GGUF in 16 bits.

First it checks, and ends with 1 where a check fails:

- Both files of a type have the same tensors, in the same types.
- llama.cpp decodes our file to the values that our reader decodes, bit for bit (llama-quantize to F32).
- Its logits for these values are those of our forward: KL divergence below 1e-6 nats for every token.
- It loads our file as it is. Its products round activations to 8 bits then; how far this moves the logits is reported.

Then both files are read by our reader, and their predictions are compared with the original's, token by token on the same windows.
No times are measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf_model import file_tensors, write_checkpoint
from llama_tools import CHECKED_TOKENS, PACKAGE, LlamaCpp, build
from roofline import conditions

from rwkvquant import CalibrationConfig
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.evaluation.divergence import Comparison
from rwkvquant.exporting.gguf import export_blocks
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.pipeline.gguf import gguf_matrices
from rwkvquant.runtime.tokenizer import load_tokenizer

TYPES = {"q8_0": "Q8_0", "q4_0": "Q4_0", "q4_K": "Q4_K_S", "q3_K": "Q3_K_S"}  # of RWKV's tensors, _S, _M and _L make the same types
LARGEST_KL = 1e-6  # nats of one token, with the same values; llama-perplexity keeps log-probabilities in 16 bits
SPAN = 16.0  # nats, in llama-perplexity
LARGEST_KL_8_BITS = 1e-2  # the mean, where llama.cpp rounds activations to 8 bits
KEYS = ("kl_mean", "kl_ci95", "kl_p99", "top1_agreement", "ppl_quantized")


def measure(args: argparse.Namespace, llama: LlamaCpp, folder: Path) -> dict[str, Any]:
    checkpoint = open_checkpoint(args.model)
    tokenizer = load_tokenizer(args.tokenizer, checkpoint.dims.vocab)
    half, text, imatrix = folder / "f16.gguf", folder / "calibration.txt", folder / "imatrix.gguf"
    write_checkpoint(half, checkpoint, tokenizer)
    rows = calibration_rows(load_documents(args.calib), tokenizer, args.calib_rows, args.calib_len)
    text.write_bytes(tokenizer.decode_bytes([token for token in rows.flatten().tolist() if token]))  # without the ends of documents
    say("importance matrix")
    llama.imatrix(half, imatrix, text, args.calib_len, whole=True)

    files: dict[str, Path] = {}
    checks: dict[str, Any] = {}
    for kind in args.types:
        say(kind)
        theirs, ours = files[f"{kind} theirs"], files[f"{kind} ours"] = folder / f"{kind}-theirs.gguf", folder / f"{kind}-ours.gguf"
        llama.quantize(half, theirs, TYPES[kind], imatrix)
        calibration = CalibrationConfig(args.calib, args.calib_rows, args.calib_len)
        export_blocks(checkpoint, str(ours), tokenizer.to_data(), gguf_matrices(checkpoint, kind, tokenizer, calibration), kind)
        checks[kind] = check(kind, theirs, ours, llama, text, folder)
    say("comparing")
    cut = windows.text_windows(args.text, tokenizer, max_tokens=args.max_tokens)
    models = {name: model(open_checkpoint(path)) for name, path in files.items()}
    compared = divergence.compare_many(model(checkpoint), models, cut)
    first = next(iter(compared.values())).to_json()
    return {
        "model": Path(args.model).stem,
        "ppl_original": first["ppl_base"],
        "tokens": first["tokens"],
        "windows": first["windows"],
        "types": {
            kind: {
                **{name: numbers(files[f"{kind} {name}"], compared[f"{kind} {name}"]) for name in ("theirs", "ours")},
                **against(compared[f"{kind} ours"], compared[f"{kind} theirs"]),
                "checks": checks[kind],
            }
            for kind in args.types
        },
    }


def check(kind: str, theirs: Path, ours: Path, llama: LlamaCpp, text: Path, folder: Path) -> dict[str, Any]:
    """Exits with 1 unless both files hold the same types, and llama.cpp reads ours as we do."""
    tensors = file_tensors(ours)
    if tensors != (others := file_tensors(theirs)):
        sys.exit(f"{kind}: llama-quantize makes other tensors: {dict(set(others.items()) - set(tensors.items()))}")
    whole = folder / "whole.gguf"
    llama.dequantize(ours, whole)
    read, decoded = open_checkpoint(ours), open_checkpoint(whole)
    for name in read.tensors:
        if not np.array_equal(read.read(name), decoded.read(name)):
            sys.exit(f"{kind}: llama.cpp decodes {name} to other values than our reader")
    tokens, in_32_bits = llama.log_probabilities(whole, text, folder)
    _, in_8_bits = llama.log_probabilities(ours, text, folder)
    whole.unlink()
    forward = model(read)
    with torch.no_grad():
        features = forward.features(torch.from_numpy(tokens.astype(np.int64))[None])
        logits = forward.logits(features[0, CHECKED_TOKENS // 2 : -1]).double().numpy()
    kl, kl_8_bits = (divergences(logits, other) for other in (in_32_bits, in_8_bits))
    if not (kl.max() < LARGEST_KL and kl_8_bits.mean() < LARGEST_KL_8_BITS):
        sys.exit(f"{kind}: llama.cpp and rwkvquant do not run the same model: KL {kl.max():.2g}, as it is {kl_8_bits.mean():.2g}")
    return {
        "same_tensors": len(tensors),
        "same_values": len(read.tensors),
        "tokens": len(kl),
        "kl_max": float(kl.max()),
        "kl_mean_8_bit_activations": float(kl_8_bits.mean()),
    }


def divergences(ours: np.ndarray[Any, Any], theirs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """KL of each token. Its tool raises what is more than SPAN below the largest log-probability; ours are raised too."""

    def log_p(x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        x = np.maximum(np.float64(x), x.max(axis=-1, keepdims=True) - SPAN)
        return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))

    p, q = log_p(ours), log_p(theirs)
    return (np.exp(p) * (p - q)).sum(axis=-1)


def model(checkpoint: Checkpoint) -> TorchModel:
    return TorchModel(CheckpointSource(checkpoint))


def numbers(path: Path, comparison: Comparison) -> dict[str, Any]:
    everything = comparison.to_json()
    return {"file_bytes": path.stat().st_size, **{key: everything[key] for key in KEYS}}


def against(ours: Comparison, theirs: Comparison) -> dict[str, Any]:
    """How much less ours diverges, with paired 95 % intervals."""
    sums = np.stack([ours.window_sums[0], theirs.window_sums[0]])
    a, b = resampled_means(sums, ours.windows.tokens_each)
    return {
        "ours_minus_theirs_ci95": divergence.difference(ours, theirs)["kl_difference_ci95"],
        "less_kl": 1 - float(ours.kl.mean() / theirs.kl.mean()),
        "less_kl_ci95": interval(1 - a / b, len(ours.windows)),
    }


def show(report: dict[str, Any]) -> None:
    print(f"{report['model']}: perplexity of the original {report['ppl_original']:.3f}, {report['tokens']} tokens")
    print(
        f"{'type':<6} {'bytes':>10} {'KL theirs':>10} {'KL ours':>10} {'less':>6} {'95 % interval':>15} {'ppl theirs':>10} {'ppl ours':>9}"
    )
    for kind, row in report["types"].items():
        theirs, ours, (low, high) = row["theirs"], row["ours"], row["less_kl_ci95"]
        print(
            f"{kind:<6} {ours['file_bytes']:>10} {theirs['kl_mean']:>10.6f} {ours['kl_mean']:>10.6f} {row['less_kl']:>6.1%} "
            f"[{low:>5.1%}, {high:>5.1%}] {theirs['ppl_quantized']:>10.3f} {ours['ppl_quantized']:>9.3f}"
        )


def say(what: str) -> None:
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--calib", required=True, help="text to calibrate on")
    parser.add_argument("--text", required=True, help="text to measure on")
    parser.add_argument("--calib-rows", type=int, default=128)
    parser.add_argument("--calib-len", type=int, default=512)
    parser.add_argument("--max-tokens", type=int, default=61440)
    parser.add_argument("--types", default=",".join(TYPES), help=f"of {', '.join(TYPES)}; default all")
    parser.add_argument("--threads", type=int, default=1)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--llama-bench", type=Path, help="use the tools in the folder of this one")
    where.add_argument("--build-dir", type=Path, help=f"build llama.cpp here from the sources of {PACKAGE}, unless that is done")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.types = args.types.split(",")
    torch.set_num_threads(args.threads)
    llama = LlamaCpp(args.llama_bench or build(args.build_dir, args.threads), args.threads)

    def digest(path: str) -> str:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]

    stated = {key: getattr(args, key) for key in ("calib_rows", "calib_len", "threads", "types")}
    inputs = {key: digest(getattr(args, key)) for key in ("model", "tokenizer", "calib", "text")}
    document = {"conditions": conditions() | stated | {"sha256": inputs, "torch": torch.__version__, "llama.cpp": PACKAGE}}
    with tempfile.TemporaryDirectory() as folder:
        report = measure(args, llama, Path(folder))
    if args.json:
        args.json.write_text(json.dumps(document | report, indent=1) + "\n")
    show(report)


if __name__ == "__main__":
    main()
