"""The perplexity of a LLaMA in GGUF, read in several ways, and beside llama.cpp (docs/methods/kv_cache.md).

    python benchmarks/llama_perplexity.py MODEL.gguf --text wiki.test.raw --json OUT.json [--windows 24] [--bench-path DIR/llama-bench]

The whole file is one text, and its tokens are cut into windows that follow one another; `--windows` of them, from everywhere in the text,
are read, each alone and with an exact cache. Ways:

    raw           the bytes of the file, nothing before a window
    line feeds    the same with line feeds at the ends of lines
    with end      the end of a document in place of a window's first token
    with begin    the token that the file names as the beginning of a text in its place
    joined        line feeds, and words as people write them: "@-@" is "-", and no blank before a comma

`all` scores each token of a window but the first; `half` those of the second half, as llama-perplexity does. Sums are kept by window, so
that intervals can be made. With --bench-path, the first --beside windows are read by llama-perplexity too; and log-probabilities of the
first tokens are compared, from the file itself (llama.cpp rounds activations to 8 bits) and from the same weights in 32 bits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf_quality import divergences
from kv_cache import Weights, features
from llama_tools import LlamaCpp
from numpy.typing import NDArray
from torch.nn import functional

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.models import CheckpointSource
from rwkvquant.models.llama import attention
from rwkvquant.runtime.tokenizer import load_tokenizer

END, BEGIN = 0, 1  # SmolLM2-Instruct: <|endoftext|>, and <|im_start|>, which its file names as the beginning of a text
JOINED = [
    (r" @(\W)@ ", r"\1"),
    (r" ([,.;:?!)\]%])", r"\1"),
    (r"([(\[$]) ", r"\1"),
    (r" '(s|t|re|ve|ll|d|m)\b", r"'\1"),
    (r'" ([^"\n]*) "', r'"\1"'),
]
WAYS = {"raw": None, "line feeds": None, "with end": END, "with begin": BEGIN, "joined": None}


def text_of(raw: bytes, way: str) -> str:
    text = raw.decode("utf-8")
    if way in ("line feeds", "joined"):
        text = text.replace("\r\n", "\n")
    for pattern, instead in JOINED if way == "joined" else ():
        text = re.sub(pattern, instead, text)
    return text


class Model:
    def __init__(self, path: Path) -> None:
        checkpoint = open_text_checkpoint(path)
        self.weights = Weights(CheckpointSource(checkpoint))
        self.tokenizer = load_tokenizer(checkpoint.tokenizer, checkpoint.dims.vocab)

    @torch.no_grad()
    def log_probabilities(self, tokens: list[int]) -> torch.Tensor:
        """(T, vocab) of the token after each."""
        weights = self.weights
        x = features(weights.blocks, weights.outer, torch.tensor([tokens]), [attention] * weights.dims.layers)
        return functional.linear(x, weights.outer["lm_head.weight"]).log_softmax(-1)

    def losses(self, tokens: list[int]) -> NDArray[np.float64]:
        """(T - 1,): -log p of each token but the first."""
        found = self.log_probabilities(tokens)[:-1].gather(1, torch.tensor(tokens)[1:, None])[:, 0]
        return -found.double().numpy()


def read(model: Model, tokens: list[int], chosen: list[int], context: int, first: int | None) -> dict[str, Any]:
    sums = []
    for window in chosen:
        own = tokens[window * context : (window + 1) * context]
        losses = model.losses(own if first is None else [first, *own[1:]])
        sums.append((round(losses.sum(), 4), round(losses[context // 2 :].sum(), 4)))  # llama-perplexity: context / 2 - 1 of them
    whole, half = np.array(sums).T
    found = {"windows": chosen, "all": told(whole, context - 1), "half": told(half, context // 2 - 1)}
    return found | {"nll_all": whole.tolist(), "nll_half": half.tolist()}


def told(sums: NDArray[np.float64], tokens: int) -> dict[str, float]:
    counts = np.full(len(sums), tokens)
    low, high = interval(resampled_means(sums[None], counts)[0], len(sums)) or (float("nan"), float("nan"))
    return {name: round(float(np.exp(value)), 3) for name, value in (("ppl", sums.sum() / counts.sum()), ("low", low), ("high", high))}


def beside_llama_cpp(model: Model, given: argparse.Namespace) -> dict[str, Any]:
    llama, tokens = LlamaCpp(given.bench_path, 1), model.tokenizer.encode(text_of(given.text.read_bytes(), "raw"))
    compared: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "whole.gguf"
        llama.dequantize(given.model, whole)
        for name, file in (("its weights in 32 bits", whole), ("the file", given.model)):
            theirs_of, theirs = llama.log_probabilities(file, given.text, Path(folder))
            assert theirs_of.tolist() == tokens[: len(theirs_of)], "llama.cpp cuts the text into other tokens"
            ours = model.log_probabilities(theirs_of.tolist())[len(theirs_of) // 2 : -1].numpy()
            kl = divergences(ours, theirs)
            compared[name] = {"positions": len(kl), "kl_mean": float(kl.mean()), "kl_max": float(kl.max())}
            print(name, compared[name], flush=True)
    size = ["-c", str(given.context), "-b", str(given.context), "--chunks", str(given.beside), "-t", "1"]
    command = [given.bench_path.with_name("llama-perplexity"), "-m", given.model, "-f", given.text, *size]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    running = [float(value) for value in re.findall(r"\[\d+\]([\d.]+)", done.stdout + done.stderr)]
    found = read(model, tokens, list(range(given.beside)), given.context, None)
    return compared | {"running_perplexity": running, "ours": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--ways", nargs="*", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--bench-path", type=Path, help="llama-bench; llama-perplexity and llama-quantize lie beside it")
    parser.add_argument("--beside", type=int, default=12, help="windows that llama-perplexity reads too")
    given = parser.parse_args()
    model, raw = Model(given.model), given.text.read_bytes()
    results = json.loads(given.json.read_text()) if given.json.exists() else {"rows": {}}
    results["conditions"] = {
        "model": given.model.name,
        "text_sha256": hashlib.sha256(raw).hexdigest()[:16],
        "context": given.context,
        "torch": torch.__version__,
    }
    if given.bench_path and "llama_cpp" not in results:
        results["llama_cpp"] = beside_llama_cpp(model, given)
        given.json.write_text(json.dumps(results) + "\n")
    for way in given.ways:
        if way in results["rows"]:
            continue
        tokens = model.tokenizer.encode(text_of(raw, way))
        there = len(tokens) // given.context
        chosen = np.linspace(0, there - 1, min(given.windows, there)).round().astype(int).tolist()
        results["rows"][way] = {"tokens_of_text": len(tokens), **read(model, tokens, chosen, given.context, WAYS[way])}
        print(way, {name: results["rows"][way][name] for name in ("all", "half")}, flush=True)
        given.json.write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
