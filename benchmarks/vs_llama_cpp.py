"""rwkvquant compared with llama.cpp: the same random model in the layouts of the one and the types of the other, in turn.

    pip install gguf cmake ninja scikit-build-core          # besides rwkvquant; the last three only to build llama.cpp
    python benchmarks/vs_llama_cpp.py x070-0.1b x070-0.4b --build-dir /tmp/llama --json OUT.json     # builds llama.cpp if it has to
    python benchmarks/vs_llama_cpp.py x060-1.6b --llama-bench /tmp/llama/build/bin/llama-bench       # or uses this build

First it checks. The model is written once in 16 bits, as a packed file and as a GGUF. On the same 64 tokens the two programs must agree
about the next token, with the GGUF's values in 32 bits (KL divergence below 1e-5). With F16 llama.cpp rounds activations to 16 bits too,
and deep random models amplify this; that KL is reported. Every packed layout must run natively and give the same bits twice and with one
thread. llama-quantize makes the other types, and each must generate. Speed does not depend on values. So packed codes are random and not
quantised from the 16-bit weights, and llama-quantize, which is slow, gets two layers, of which the second is then repeated.

Ours are the presets of `bench --random`, and the default in three more ways: reading all columns of ffn.value, with one thread, and in a
model in which 20 % of the input of ffn.value is not zero (in all others --density).

Then it times. A round runs every layout and every type once, in turn, and every second round runs them backwards, so that a slow moment
of the machine meets both programs. The speeds of memory and of int8 products are measured before each of ours. Each run of llama.cpp is a
process of llama-bench with its own warm-up, which maps the model or reads it: what was faster in a first run. Ours stay loaded, and read
one token before the clock starts. Ratios and shares are medians of those within a round. Neither program samples. A token's bytes are all
weights but the embedding, one row of the embedding, and the state read and written once.

Disk: about six times the 16-bit file (2.9B: 35 GB), in --work-dir if given. The files there are kept and used again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gguf_model import gguf_sizes, write_deeper, write_gguf
from llama_tools import PACKAGE, LlamaCpp, build, sample_text
from roofline import conditions
from vs_report import show, summarise

from rwkvquant.architectures import architecture
from rwkvquant.bench.measure import HASHED_TOKENS, Decoder, bytes_per_token, int8_operations_per_token, state_bytes
from rwkvquant.bench.random_model import DENSITY, write_random_model
from rwkvquant.bench.roofline import Roofline
from rwkvquant.bench.shapes import released
from rwkvquant.config import DEFAULT_BITS
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.runtime.session import Model, load, logits_hash

PRESETS = "default,rows"
DENSER = 0.2
TYPES = "F16,Q8_0,Q4_0,IQ4_NL,Q4_K,Q3_K,IQ3_S,IQ3_XXS,Q2_K"
BATCH = 8
# With the same weights. llama.cpp's tool keeps log-probabilities in 16 bits. In F16 its activations have 16 bits too, which grows to
# 1e-3 in a deep random RWKV-6.
LARGEST_KL, LARGEST_KL_16_BITS = 1e-5, 1e-2


@dataclass(frozen=True)
class Way:
    """How one of ours runs. columns: which columns of ffn.value are read, used or all."""

    preset: str
    threads: int
    density: float
    columns: str = "used"


class Ours:
    """A packed file, loaded and checked. Exits with 1 if it does not run natively or does not always give the same bits."""

    def __init__(self, path: Path, way: Way, prompt: int) -> None:
        packed = open_packed(path)
        self.way = way
        os.environ["RWKVQUANT_COLUMNS"] = way.columns
        self.model = load(path, threads=way.threads)
        self._tokens = np.random.default_rng(0).integers(0, self.model.dims.vocab, max(prompt, 1024)).tolist()
        self._prompt = prompt
        hashes = {self.hash(model) for model in (self.model, self.model, load(path, threads=3 - way.threads))}
        if len(hashes) > 1 or self.model.backend == "reference":
            sys.exit(f"{path.name}: runs on {self.model.backend}, logits {sorted(hashes)}")
        self._one, self._many = (Decoder(self.model, self._tokens, batch) for batch in (1, BATCH))
        self._end_measuring()
        self.facts = {
            "file_bytes": packed.file_bytes,
            "bits_per_weight": packed.ledger().bits_per_weight,
            "bytes_per_token": bytes_per_token(packed),
            "operations_per_token": int8_operations_per_token(packed),
            "backend": self.model.backend,
            "way": asdict(way),
            "promised": promised(packed),
            "logits_hash": hashes.pop(),
        }

    def _end_measuring(self) -> None:
        """Decode until the engine has chosen how to prefetch. The first tokens of a process try several ways, most of them slower."""
        while self.model.tuning.prefetch_source == "measuring":
            self._one.tokens_per_second()

    def hash(self, model: Model) -> str:
        logits, _ = model.forward(self._tokens[:HASHED_TOKENS])
        if not np.isfinite(logits).all():
            sys.exit("logits are not finite")
        return logits_hash(logits)

    def run(self, prefill: bool) -> dict[str, float]:
        self.model.forward(self._tokens[:1])  # loads what the page cache has lost to other files
        speeds = {"decode": self._one.tokens_per_second(), "batch": self._many.tokens_per_second()}
        if prefill:
            started = time.perf_counter()
            self.model.forward(self._tokens[: self._prompt])
            speeds["prefill"] = self._prompt / (time.perf_counter() - started)
        return speeds


class Theirs:
    """A GGUF that generates. Its runs are long enough to last about two seconds."""

    def __init__(self, path: Path, llama: LlamaCpp, prompt: int, state: int) -> None:
        self._path, self._llama, self._prompt = path, llama, prompt
        firsts = {mapped: llama.speed(path, generate=8, mapped=mapped) for mapped in (True, False)}
        self._mapped = firsts[True]["decode"] >= firsts[False]["decode"]
        first = firsts[self._mapped]
        self._generate = min(128, max(16, round(2 * first["decode"])))
        sizes = gguf_sizes(path)
        self.facts = {key: sizes[key] for key in ("file_bytes", "projection_types")}
        self.facts |= {"bytes_per_token": sizes["weight_bytes_per_token"] + 2 * state}
        self.facts |= {"commit": first["commit"], "backend": first["backend"], "generated": self._generate}
        self.facts |= {"loaded": "mapped" if self._mapped else "read", "first_decode_tok_s": {str(k): firsts[k]["decode"] for k in firsts}}

    def run(self, prefill: bool) -> dict[str, float]:
        speeds = self._llama.speed(self._path, generate=self._generate, prompt=self._prompt if prefill else 0, mapped=self._mapped)
        return {key: speeds[key] for key in ("decode", "prefill") if key in speeds}


def compare(shape: str, llama: LlamaCpp, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Write, check and time one model."""
    arch, dims = released(shape)
    started = time.perf_counter()
    ways = ways_of(options)
    models, agreement, failed = write(shape, llama, folder, ways, options)
    ours: dict[str, Ours] = {}
    theirs: dict[str, Theirs] = {}
    for name, path in models.items():
        say(f"{shape}: checking {name}")
        if name in ways:
            ours[name] = Ours(path, ways[name], options.prompt)
        else:
            theirs[name] = Theirs(path, llama, options.prompt, state_bytes(architecture(arch), dims))
    prepared = time.perf_counter()
    rounds = measure(shape, ours, theirs, options)
    for name, one in ours.items():
        if one.hash(one.model) != one.facts["logits_hash"]:
            sys.exit(f"{shape} {name}: the logits changed while it was timed")
    return {
        "shape": shape,
        "arch": arch,
        "agreement": agreement,
        "failed": failed,
        "seconds": {"prepare": prepared - started, "measure": time.perf_counter() - prepared},
        **summarise({name: one.facts for name, one in ours.items()}, {name: one.facts for name, one in theirs.items()}, rounds),
        "rounds": rounds,
    }


def ways_of(options: argparse.Namespace) -> dict[str, Way]:
    """name -> how it runs."""
    ways = {preset: Way(preset, options.threads, options.density) for preset in options.presets}
    if "default" in ways:
        ways["all columns"] = replace(ways["default"], columns="all")
        ways["one thread"] = replace(ways["default"], threads=1)
        ways["denser"] = replace(ways["default"], density=DENSER)
        ways["denser, all columns"] = replace(ways["denser"], columns="all")
    return ways


def promised(packed: PackedFile) -> float | None:
    """The bytes of a token over those without the columns that are multiplied by zero; None if nothing is stored by columns."""
    density = packed.quantization_config.get("density")
    stored = [name for name, entry in packed.tensors.items() if entry.packing.layout.startswith(("sections", "columnwise"))]
    skipped = (1 - density) * sum(map(packed.stored_bytes, stored))
    whole = bytes_per_token(packed)
    return whole / (whole - skipped) if skipped else None


def write(
    shape: str, llama: LlamaCpp, folder: Path, ways: dict[str, Way], options: argparse.Namespace
) -> tuple[dict[str, Path], Any, dict[str, str]]:
    """-> {preset, way or type: its file}, how well both agree on the 16-bit model, {type: why it cannot be made}."""
    arch, dims = released(shape)
    dense, half, text = folder / f"{shape}-dense.safetensors", folder / f"{shape}-F16.gguf", sample_text(folder / "sample.txt")
    kept = folder / f"{shape}-agreement.json"
    if not (half.exists() and kept.exists()):
        say(f"{shape}: writing 16 bits")
        make(dense, lambda path: write_random_model(path, arch, dims, layouts="dense"))
        size = max(3.2, 1.2 + 0.35 * (len(options.types) + len(ways)))  # 3.2: F16 and, for some time, the same in 32 bits
        need = round(dense.stat().st_size * size)
        if not half.exists() and shutil.disk_usage(folder).free < need:
            sys.exit(f"{folder} needs another {need / 1e9:.0f} GB free for {shape}")
        make(half, lambda path: write_gguf(path, open_packed(dense)))
        make(kept, lambda path: path.write_text(json.dumps(agree(llama, dense, half, text, folder))))
        dense.unlink()
    agreement = json.loads(kept.read_text())

    models: dict[str, Path] = {}
    for name, way in ways.items():
        say(f"{shape}: packing {name}")
        models[name] = folder / f"{shape}-{way.preset}-{options.bits}-{way.density}.safetensors"
        make(
            models[name],
            lambda path, way=way: write_random_model(path, arch, dims, layouts=way.preset, bits=options.bits, density=way.density),
        )
    types, failed = write_types(shape, llama, folder, options.types)
    return models | types, agreement, failed


def write_types(shape: str, llama: LlamaCpp, folder: Path, kinds: list[str]) -> tuple[dict[str, Path], dict[str, str]]:
    """-> {type: its file}, {type: why it cannot be made}. llama-quantize gets two layers; its choices do not depend on the layer."""
    arch, dims = released(shape)
    text, dense, two = folder / "sample.txt", folder / f"{shape}-two-dense.safetensors", folder / f"{shape}-two-F16.gguf"
    models: dict[str, Path] = {}
    failed: dict[str, str] = {}
    for kind in kinds:
        say(f"{shape}: making {kind}")
        target, imatrix = folder / f"{shape}-{kind}.gguf", None
        try:
            if not target.exists():
                make(dense, lambda path: write_random_model(path, arch, replace(dims, layers=2), layouts="dense"))
                make(two, lambda path: write_gguf(path, open_packed(dense)))
                if kind.startswith("IQ"):
                    imatrix = folder / f"{shape}-two-imatrix.gguf"
                    make(imatrix, lambda path: llama.imatrix(two, path, text))
                shallow = folder / f"{shape}-two-{kind}.gguf"
                llama.quantize(two, shallow, kind, imatrix)
                make(target, lambda path, shallow=shallow: write_deeper(path, shallow, arch, dims))
                shallow.unlink()
            models[kind] = target
        except RuntimeError as error:
            failed[kind] = str(error).replace(f"{folder}/", "")
            say(f"{shape}: no {kind}: {error}")
    return models, failed


def make(target: Path, writer: Any) -> None:
    """Write the file unless it exists. It appears only when it is complete."""
    if not target.exists():
        part = target.with_name("part-" + target.name)
        writer(part)
        part.rename(target)


def agree(llama: LlamaCpp, dense: Path, half: Path, text: Path, folder: Path) -> dict[str, float]:
    """How far llama.cpp is from ours on the same weights, in 32 and in 16 bits. Exits with 1 if the first is not rounding."""
    whole = folder / f"{half.stem}-F32.gguf"
    try:
        write_gguf(whole, open_packed(dense), float32=True)
        tokens, in_32_bits = llama.log_probabilities(whole, text, folder)
    finally:
        whole.unlink(missing_ok=True)
    _, in_16_bits = llama.log_probabilities(half, text, folder)

    logits, _ = load(dense, activations="float32").forward(tokens.tolist(), logits="all")
    each = (logits[len(tokens) // 2 : -1], in_32_bits, in_16_bits)
    ours, *theirs = (x - np.log(np.exp(x).sum(axis=-1, keepdims=True)) for x in map(np.float64, each))
    kl, kl_16_bits = (float((np.exp(ours) * (ours - x)).sum(axis=-1).max()) for x in theirs)
    if not (kl < LARGEST_KL and kl_16_bits < LARGEST_KL_16_BITS):
        sys.exit(f"{half.name}: llama.cpp and rwkvquant do not run the same model, KL {kl:.2g}, in F16 {kl_16_bits:.2g}")
    return {"kl_max": kl, "kl_max_16_bits": kl_16_bits, "tokens": len(ours)}


def measure(shape: str, ours: dict[str, Ours], theirs: dict[str, Theirs], options: argparse.Namespace) -> list[dict[str, Any]]:
    """For each round: the machine's bytes and int8 operations a second, and {preset or type: {what is timed: tokens a second}}."""
    jobs = in_turns(list(ours.items()), list(theirs.items()))
    rounds = []
    with ExitStack() as stack:
        rooflines = {threads: stack.enter_context(Roofline(threads)) for threads in {one.way.threads for one in ours.values()}}
        for index in range(options.rounds):
            reading: dict[str, list[float]] = {str(threads): [] for threads in rooflines}
            multiplying: dict[str, list[float]] = {str(threads): [] for threads in rooflines}
            speeds = {}
            for number, (name, contender) in enumerate(jobs if index % 2 == 0 else jobs[::-1]):
                say(f"{shape}: round {index + 1} of {options.rounds}, {number + 1} of {len(jobs)}: {name}")
                if isinstance(contender, Ours):
                    roofline = rooflines[contender.way.threads]
                    reading[str(contender.way.threads)].append(roofline.read())
                    multiplying[str(contender.way.threads)].append(roofline.multiply())
                speeds[name] = contender.run(prefill=index < options.prefill_rounds)
            best = {
                "memory": {key: max(of) for key, of in reading.items()},
                "arithmetic": {key: max(of) for key, of in multiplying.items()},
            }
            rounds.append({**best, "load": os.getloadavg()[0], "speeds": speeds})
    return rounds


def in_turns(first: Sequence[Any], second: Sequence[Any]) -> list[Any]:
    """Both in one list, evenly mixed."""
    placed = [((i + 0.5) / len(part), item) for part in (first, second) for i, item in enumerate(part)]
    return [item for _, item in sorted(placed, key=lambda pair: pair[0])]


def say(what: str) -> None:
    print(time.strftime("%H:%M:%S"), what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="+", help="released shapes: x070-0.1b, x060-1.6b ...")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prefill-rounds", type=int, default=3, help="this many first rounds also time a prompt (default 3)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of the prompt (default 512)")
    parser.add_argument("--bits", type=float, default=DEFAULT_BITS)
    parser.add_argument("--presets", default=PRESETS, help=f"of ours (default {PRESETS})")
    parser.add_argument("--density", type=float, default=DENSITY, help=f"of the input of ffn.value (default {DENSITY})")
    parser.add_argument("--types", default=TYPES, help=f"of llama.cpp (default {TYPES})")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--llama-bench", type=Path, help="use this one and the tools in its folder")
    where.add_argument("--build-dir", type=Path, help=f"build llama.cpp here from the sources of {PACKAGE}, unless that is done")
    parser.add_argument("--work-dir", type=Path, help="keep the models here, and use them again (default: a temporary folder)")
    parser.add_argument("--only-write", action="store_true", help="make the models in --work-dir, and time nothing")
    parser.add_argument("--json", type=Path, help="write everything here, after each model")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # which removes the temporary folder
    if options.only_write and not options.work_dir:
        parser.error("--only-write needs --work-dir")
    options.presets = [preset.strip() for preset in options.presets.split(",")]
    options.types = [kind.strip().upper() for kind in options.types.split(",") if kind.strip()]

    for shape in options.shapes:
        released(shape)
    llama = LlamaCpp(options.llama_bench or build(options.build_dir, os.cpu_count() or 1), options.threads)
    settings = {
        key: getattr(options, key) for key in ("threads", "rounds", "prefill_rounds", "prompt", "bits", "presets", "density", "types")
    }
    document: dict[str, Any] = {"conditions": conditions() | settings, "models": []}
    for shape in options.shapes:
        with ExitStack() as stack:
            folder = options.work_dir or Path(stack.enter_context(tempfile.TemporaryDirectory()))
            folder.mkdir(parents=True, exist_ok=True)
            if options.only_write:
                write(shape, llama, folder, ways_of(options), options)
                continue
            report = compare(shape, llama, folder, options)
        document["models"].append(report)
        if options.json:
            options.json.write_text(json.dumps(document, indent=1))
        show(report)


if __name__ == "__main__":
    main()
