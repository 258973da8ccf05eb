"""What a quantised cache of keys and values costs a transformer (docs/methods/kv_cache.md).

    python benchmarks/kv_cache.py MODEL --text eval.txt --calibration calib.txt --json results/kv_cache.json [--weights PACKED]

MODEL is a LLaMA checkpoint: it gives the tokenizer's place, and the weights too unless a packed file of it is given. Every case reads the
same windows, all positions as if each token were generated alone, and is compared with the same weights and an exact cache. KL and nll are
kept as sums over runs of 64 positions, so that intervals and tables by position can be made later. A case that is in the JSON is not
measured again; statics that were tuned are kept beside it (.npz).

With --claim, a packed file with 4-bit weights is compared with the checkpoint itself: cache and activations exact or rounded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.calibration.cache_tuning import Statics, Tuning, measured_statics, tune
from rwkvquant.calibration.samples import load_documents
from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.evaluation.bootstrap import interval, resampled_means
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels.kv_cache import KVCacheConfig
from rwkvquant.models import CheckpointSource, QuantizedMatrix
from rwkvquant.models.llama import attention, block, embed, rms_norm
from rwkvquant.models.llama_cache import CachedAttention, TorchStatic
from rwkvquant.models.source import PackedSource
from rwkvquant.runtime.tokenizer import load_tokenizer

RUN = 64  # positions in one sum
ROWS = 256  # of logits at once
GROUP = 32  # numbers with one step, in every scheme


@dataclass(frozen=True)
class Case:
    """`statics`: "" for none, "measured", or "tuned" with `tuning`."""

    name: str
    config: KVCacheConfig
    past_only: bool = True
    statics: str = ""
    tuning: Tuning = field(default_factory=Tuning)
    activations: int = 0  # bits of the input of every product; 0: exact


def cases(bits: int, tuning: Tuning, every: bool) -> Iterator[Case]:
    token = KVCacheConfig(bits=bits, group=GROUP)
    two = replace(token, keys="before")
    yield Case("per token", token, past_only=False)
    yield Case("per token, past only", token)
    yield Case("rotated", replace(token, rotate=True), past_only=False)
    yield Case("rotated, past only", replace(token, rotate=True))
    yield Case("per token, window 32", replace(token, window=32))
    yield Case("kivi, window 32", KVCacheConfig(bits=bits, scheme="kivi", group=GROUP, window=32))
    yield Case("kivi, window 128", KVCacheConfig(bits=bits, scheme="kivi", group=GROUP, window=128))
    still = replace(tuning, parts=("shift", "smooth"))
    yield Case("two-dimensional, not tuned", two, statics="measured", tuning=still)
    yield Case("two-dimensional, not tuned, present token rounded", two, past_only=False, statics="measured", tuning=still)
    yield Case("two-dimensional, not tuned, without shift", two, statics="measured", tuning=replace(still, parts=("smooth",)))
    yield Case("two-dimensional, not tuned, without smoothing", two, statics="measured", tuning=replace(still, parts=("shift",)))
    yield Case("per token, past only, keys before RoPE", two)
    yield Case("two-dimensional, not tuned, keys after RoPE", replace(two, keys="after"), statics="measured", tuning=still)
    yield Case("two-dimensional, not tuned, window 32", replace(two, window=32), statics="measured", tuning=still)
    yield Case("wkvquant", two, statics="tuned", tuning=tuning)
    yield Case("wkvquant, present token rounded", two, past_only=False, statics="tuned", tuning=tuning)
    yield Case("wkvquant without the next blocks", two, statics="tuned", tuning=replace(tuning, ahead=0))
    yield Case("wkvquant, window 32", replace(two, window=32), statics="tuned", tuning=tuning)
    if every:
        parts = tuning.parts
        for part in parts:
            left = tuple(each for each in parts if each != part)
            yield Case(f"wkvquant without {part}", two, statics="tuned", tuning=replace(tuning, parts=left))
        yield Case("wkvquant, keys after RoPE", replace(two, keys="after"), statics="tuned", tuning=tuning)


class RoundedInput:
    """A matrix whose inputs are rounded per token, symmetrically, to `bits`."""

    def __init__(self, W: Tensor, bits: int) -> None:
        self.W, self.most = W, 2 ** (bits - 1) - 1

    def product(self, x: Tensor) -> Tensor:
        step = x.abs().amax(-1, keepdim=True).clamp(min=1e-8) / self.most
        return functional.linear((x / step).round().clamp(-self.most - 1, self.most) * step, self.W)


class Weights:
    """All weights, dense in memory."""

    def __init__(self, source: Any) -> None:
        self.dims = source.dims
        self.outer = {name: dense(W) for name, W in source.globals().items()}
        self.blocks = [{name: dense(W) for name, W in source.block(layer).items()} for layer in range(source.dims.layers)]

    def with_rounded_inputs(self, bits: int) -> list[dict[str, Any]]:
        return [{key: RoundedInput(W, bits) if W.dim() == 2 else W for key, W in block.items()} for block in self.blocks]


def dense(W: Any) -> Tensor:
    return W.decode() if isinstance(W, QuantizedMatrix) else W


def windows_of(path: Path, tokenizer: Any, count: int, context: int, skip: int = 0) -> Tensor:
    """(count, context + 1) tokens that follow one another; a token 0 before each window."""
    tokens: list[int] = []
    for document in load_documents(path):
        tokens += tokenizer.encode(document)
        if len(tokens) > skip + count * context:
            break
    count = min(count, (len(tokens) - skip) // context)
    rows = [[0, *tokens[skip + at * context : skip + (at + 1) * context]] for at in range(count)]
    return torch.tensor(rows)


def features(blocks: list[dict[str, Any]], outer: dict[str, Any], tokens: Tensor, attends: list[Any]) -> Tensor:
    x = embed(outer, tokens)
    for weights, attend in zip(blocks, attends, strict=True):
        x, _, _ = block(weights, x, None, None, attend=attend)
    return rms_norm(x, outer, "model.norm")[0]


@torch.no_grad()
def compared(base: Tensor, found: Tensor, head: tuple[Tensor, Tensor], targets: Tensor, stride: int) -> dict[str, list[float]]:
    """Sums over runs of positions; only every `stride`-th position is looked at."""
    parts: dict[str, list[Tensor]] = {"kl": [], "nll": [], "nll_base": [], "same": []}
    chosen = torch.arange(0, len(targets), stride)
    for rows in chosen.split(ROWS):
        log_p, log_q = (functional.linear(x[rows], W).log_softmax(-1) for x, W in zip((base, found), head, strict=True))
        wanted = targets[rows, None]
        parts["kl"].append((log_p.exp() * (log_p - log_q)).sum(-1))
        parts["nll"].append(-log_q.gather(1, wanted)[:, 0])
        parts["nll_base"].append(-log_p.gather(1, wanted)[:, 0])
        parts["same"].append(log_p.argmax(-1) == log_q.argmax(-1))
    run = chosen // RUN
    sums = {name: torch.zeros(int(run[-1]) + 1).index_add(0, run, torch.cat(part).float()).tolist() for name, part in parts.items()}
    sums["tokens"] = torch.bincount(run).tolist()
    return {name: [round(value, 5) for value in values] for name, values in sums.items()}


class Study:
    def __init__(self, given: argparse.Namespace) -> None:
        self.given = given
        checkpoint = open_text_checkpoint(given.model)
        self.original = Weights(CheckpointSource(checkpoint))
        self.weights = Weights(PackedSource(open_packed(given.weights))) if given.weights else self.original
        tokenizer = load_tokenizer(given.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
        self.tokens = windows_of(given.text, tokenizer, given.windows, given.context)
        self.calibration = windows_of(given.calibration, tokenizer, given.calibration_rows, given.calibration_length)
        self.conditions = {
            "model": given.model.name,
            "weights": given.weights.name if given.weights else "as in the checkpoint",
            "windows": len(self.tokens),
            "context": given.context,
            "stride": given.stride,
            "tuning": f"{given.steps} steps of {given.rows} rows of {given.calibration_length} tokens, of {given.calibration_rows} rows",
            "tokens_sha256": hashlib.sha256(self.tokens.numpy().tobytes()).hexdigest()[:16],
            "torch": torch.__version__,
        }
        self.file: Path = given.json
        self.results: dict[str, Any] = (
            json.loads(self.file.read_text()) if self.file.exists() else {"conditions": self.conditions, "rows": []}
        )
        if self.results["conditions"] != self.conditions:
            sys.exit(f"{self.file} was measured under other conditions; give another --json")
        self.base: dict[tuple[str, int], Tensor] = {}
        self.made: dict[str, Statics] = {}

    def run(self, all_cases: list[Case], claim: bool = False) -> None:
        """One window of all cases after the other, so that a stopped run has the same windows for all."""
        done = {(row["case"], row["bits"], row["window"]) for row in self.results["rows"]}
        original = self.original if claim else self.weights
        for window in range(len(self.tokens)):
            for case in all_cases:
                name = f"claim: {case.name}" if claim else case.name
                if (name, case.config.bits, window) in done:
                    continue
                started = time.perf_counter()
                sums = self.measure(case, window, original)
                self.results["rows"].append({"case": name, "bits": case.config.bits, "window": window, **sums})
                self.save()
                kl = sum(sums["kl"]) / sum(sums["tokens"])
                print(f"window {window}, {name}, {case.config.bits} bits: KL {kl:.5f} ({time.perf_counter() - started:.1f} s)", flush=True)

    @torch.no_grad()
    def measure(self, case: Case, window: int, original: Weights) -> dict[str, Any]:
        row, targets = self.tokens[window : window + 1, :-1], self.tokens[window, 1:]
        key = ("claim" if original is not self.weights else "", window)
        if key not in self.base:
            self.base = {key: features(original.blocks, original.outer, row, [attention] * original.dims.layers)}
        statics = self.statics(case)
        attends = [
            CachedAttention(case.config, *(statics[layer] if statics else (None, None)), past_only=case.past_only)
            for layer in range(self.weights.dims.layers)
        ]
        blocks = self.weights.with_rounded_inputs(case.activations) if case.activations else self.weights.blocks
        found = features(blocks, self.weights.outer, row, attends)
        head = original.outer["lm_head.weight"], self.weights.outer["lm_head.weight"]
        return compared(self.base[key], found, head, targets, self.given.stride)

    def statics(self, case: Case) -> Statics | None:
        if not case.statics:
            return None
        config, parts = case.config, case.tuning.parts
        window_free = replace(config, window=0)
        name = f"{case.statics}-{config.bits}-{config.keys}-{'-'.join(parts)}-{case.tuning.ahead if case.statics == 'tuned' else ''}"
        if name not in self.made:
            path = self.file.with_name(f"{self.file.stem}.{name}.npz")
            self.made[name] = load_statics(path) if path.exists() else self.make(window_free, parts, case, path, name)
        return self.made[name]

    def make(self, config: KVCacheConfig, parts: tuple[str, ...], case: Case, path: Path, name: str) -> Statics:
        x = embed(self.weights.outer, self.calibration[:, :-1])
        statics = measured_statics(self.weights.blocks, x, config.keys, parts)
        if case.statics == "tuned":
            with torch.enable_grad():
                statics = tune(self.weights.blocks, x, config, statics, case.tuning, lambda line: print(f"{name}: {line}", flush=True))
        arrays = {
            f"{layer}.{kind}.{part}": getattr(static, part).detach().numpy()
            for layer, pair in enumerate(statics)
            for kind, static in zip(("keys", "values"), pair, strict=True)
            for part in ("shift", "smooth", "clip")
        }
        np.savez(path, **arrays)
        return statics

    def save(self) -> None:
        part = self.file.with_suffix(".part")
        part.write_text(json.dumps(self.results) + "\n")
        part.replace(self.file)


def load_statics(path: Path) -> Statics:
    arrays = np.load(path)

    def static(layer: int, kind: str) -> TorchStatic:
        return TorchStatic(*(torch.from_numpy(arrays[f"{layer}.{kind}.{part}"]) for part in ("shift", "smooth", "clip")))

    layers = 1 + max(int(name.split(".")[0]) for name in arrays)
    return [(static(layer, "keys"), static(layer, "values")) for layer in range(layers)]


def summary(results: dict[str, Any], reference: str) -> None:
    """Print KL with the interval over runs, perplexities, KL by quarters of the context, and the paired difference from `reference`."""
    grouped: dict[tuple[str, int], dict[int, dict[str, Any]]] = {}
    for row in results["rows"]:
        grouped.setdefault((row["case"], row["bits"]), {})[row["window"]] = row
    for (case, bits), rows in grouped.items():
        sums = {name: np.array([row[name] for row in rows.values()]) for name in ("kl", "nll", "nll_base", "same", "tokens")}
        mean = {name: values.sum() / sums["tokens"].sum() for name, values in sums.items()}
        quarters = zip(*(np.array_split(sums[name], 4, axis=1) for name in ("kl", "tokens")), strict=True)
        print(
            f"{case:50} {bits:2} bits, {len(rows)} windows: KL {told(sums['kl'], sums['tokens'])}  ppl {np.exp(mean['nll']):.3f} "
            f"({np.exp(mean['nll_base']):.3f})  same {100 * mean['same']:.2f} %  quarters {', '.join(told(*each) for each in quarters)}"
        )
        others = grouped.get((reference, bits), {})
        both = [window for window in rows if window in others and case != reference]
        if both:
            kl, tokens = (np.array([rows[window][name] for window in both]) for name in ("kl", "tokens"))
            other = np.array([others[window]["kl"] for window in both])
            print(f"{'':50} minus {reference}: {told(kl - other, tokens)}")


def told(kl: Any, tokens: Any) -> str:
    """The mean and its interval, over draws of runs of 64 positions."""
    kl, tokens = kl.reshape(1, -1), tokens.reshape(-1)
    low, high = interval(resampled_means(kl, tokens)[0], tokens.size) or (float("nan"), float("nan"))
    return f"{kl.sum() / tokens.sum():.5f} [{low:.5f}, {high:.5f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--weights", type=Path, help="a packed file of the model")
    parser.add_argument("--tokenizer")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=24)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--stride", type=int, default=1, help="look at every so many-th position")
    parser.add_argument("--calibration-rows", type=int, default=8)
    parser.add_argument("--calibration-length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=30, help="of tuning, for each block")
    parser.add_argument("--rows", type=int, default=2, help="calibration rows in a step of tuning")
    parser.add_argument("--bits", type=int, action="append", choices=(2, 3, 4))
    parser.add_argument("--few", action="store_true", help="without taking each piece away in turn")
    parser.add_argument("--no-tuning", action="store_true", help="without the cases that are tuned")
    parser.add_argument("--only", nargs="+", help="only the cases with these names")
    parser.add_argument("--claim", action="store_true")
    parser.add_argument("--only-summary", action="store_true")
    parser.add_argument("--reference", default="two-dimensional, not tuned", help="the case from which the summary takes differences")
    given = parser.parse_args()
    tuning = Tuning(steps=given.steps, rows=given.rows)
    if given.only_summary:
        summary(json.loads(given.json.read_text()), given.reference)
        return
    study = Study(given)
    wanted = [case for bits in given.bits or (4, 3, 2) for case in cases(bits, tuning, not given.few)]
    keep: Callable[[Case], bool] = lambda case: (  # noqa: E731
        (case.statics != "tuned" or not given.no_tuning) and case.name in (given.only or [case.name])
    )
    if given.claim:
        two = KVCacheConfig(bits=4, group=GROUP, keys="before")
        exact = KVCacheConfig(bits=32)
        study.run(
            [
                Case("W4, cache exact", exact),
                Case("W4, cache 4 bits, two-dimensional", two, statics="measured", tuning=replace(tuning, parts=("shift", "smooth"))),
                Case("W4, activations and cache 8 bits", KVCacheConfig(bits=8, group=GROUP), past_only=False, activations=8),
                Case("W4, activations 8 bits, cache 4 bits per token", KVCacheConfig(bits=4, group=GROUP), past_only=False, activations=8),
                Case("W4, activations and cache 4 bits", replace(two, bits=4, keys="after"), past_only=False, activations=4),
            ],
            claim=True,
        )
    else:
        study.run([Case("float16", KVCacheConfig(bits=16)), *filter(keep, wanted)])
    summary(study.results, given.reference)


if __name__ == "__main__":
    main()
