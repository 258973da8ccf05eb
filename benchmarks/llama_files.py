"""A model in llama.cpp's types, as its users make them: for the rows of lab/frontier.yaml.

    pip install gguf                      # besides rwkvquant; and cmake ninja to build llama.cpp
    python benchmarks/llama_files.py MODEL.pth --tokenizer FILE --calib calib.txt --name rwkv7-8m -o FOLDER --build-dir /tmp/llama
    rwkvquant lab run lab/frontier.yaml --work-dir results --files FOLDER

Writes FOLDER/NAME-TYPE.gguf. llama-imatrix reads the same rows of the calibration text as rwkvquant does, as a text, which it cuts into
tokens again, and measures the head too. llama-quantize starts from a GGUF in 16 bits. Types are those of llama-quantize; of RWKV's tensors,
_S, _M and _L make the same types (docs/methods/gguf.md).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from gguf_model import write_checkpoint
from llama_tools import PACKAGE, LlamaCpp, build

from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.runtime.tokenizer import load_tokenizer

TYPES = ("Q2_K", "Q3_K_S", "IQ3_XXS", "IQ3_S", "Q4_0", "Q4_K_S", "IQ4_XS", "Q5_K_S", "Q6_K")


def make(args: argparse.Namespace, llama: LlamaCpp, folder: Path) -> None:
    checkpoint = open_checkpoint(args.model)
    tokenizer = load_tokenizer(args.tokenizer, checkpoint.dims.vocab)
    half, text, imatrix = folder / "f16.gguf", folder / "calibration.txt", folder / "imatrix.gguf"
    write_checkpoint(half, checkpoint, tokenizer)
    rows = calibration_rows(load_documents(args.calib), tokenizer, args.calib_rows, args.calib_len)
    text.write_bytes(tokenizer.decode_bytes([token for token in rows.flatten().tolist() if token]))  # without the ends of documents
    llama.imatrix(half, imatrix, text, args.calib_len, whole=True)
    args.output.mkdir(parents=True, exist_ok=True)
    for kind in args.types.split(","):
        target = args.output / f"{args.name}-{kind}.gguf"
        llama.quantize(half, target, kind, imatrix)
        print(f"{target}: {target.stat().st_size} bytes", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--calib", required=True, help="text to calibrate on")
    parser.add_argument("--calib-rows", type=int, default=64)
    parser.add_argument("--calib-len", type=int, default=512)
    parser.add_argument("--name", required=True, help="the model's name in the specification")
    parser.add_argument("--output", "-o", type=Path, required=True)
    parser.add_argument("--types", default=",".join(TYPES), help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=1)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--llama-bench", type=Path, help="use the tools in the folder of this one")
    where.add_argument("--build-dir", type=Path, help=f"build llama.cpp here from the sources of {PACKAGE}, unless that is done")
    args = parser.parse_args()
    llama = LlamaCpp(args.llama_bench or build(args.build_dir, args.threads), args.threads)
    with tempfile.TemporaryDirectory() as folder:
        make(args, llama, Path(folder))


if __name__ == "__main__":
    main()
