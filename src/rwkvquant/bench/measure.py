"""The speed of a packed file on this machine: decoding, prefill and batches, also as a share of the limits of memory and arithmetic.

The text that is read is one that the model writes itself, because the speed can depend on how much of it is zero inside (density.py).
Runs are interleaved, so that a slow moment of the machine affects all of them. Speeds are medians of rounds, the limits are the best.
The bytes of a token are those that its forward must read: all stored tensors except the embedding, one row of the embedding, and
the state, read and written once.
"""

from __future__ import annotations

import dataclasses
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.architectures import QUANTIZED_ROLES, Architecture, Dims
from rwkvquant.bench.density import measure_density, own_texts
from rwkvquant.bench.roofline import Roofline
from rwkvquant.codecs import Packing
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.runtime.session import Model, is_packed, logits_hash
from rwkvquant.runtime.states.files import FULL_BITS
from rwkvquant.runtime.weights import packed_weights

PREFILL_TOKENS = 512
HASHED_TOKENS = 16
ROUNDS = 5
SECONDS = 1.0  # about the length of a decoding run
SLOW = 0.9  # a mapped file that is read at less than this share of the memory's speed costs speed
MAX_BATCH = 64


def measure(
    file: str | Path,
    *,
    threads: int | None = None,
    pages: str = "auto",
    prefill_tokens: int = PREFILL_TOKENS,
    rounds: int = ROUNDS,
    batches: Sequence[int] = (),
    state_bits: int = FULL_BITS,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The results as plain JSON. `pages` as in `load`. With `state_bits` 12 or 8, batches are decoded with states in so many bits too.

    Raises ConfigError for a file that is not packed, for rounds, batches or bits out of range, for pages that cannot be had, and without
    the native module.
    """
    if not is_packed(file):
        raise ConfigError(f"bench needs a packed file or --random SHAPE; {file} is not a packed file")
    if rounds < 1 or prefill_tokens < 1 or not all(1 <= batch <= MAX_BATCH for batch in batches):
        raise ConfigError(
            f"rounds and prefill must be at least 1 and batches 1 to {MAX_BATCH}; got {rounds}, {prefill_tokens} and {list(batches)}"
        )
    progress("loading")
    packed = open_packed(file, pages)
    weights = packed_weights(packed)
    model = Model(weights, None, packed.tokenizer, threads)
    tokens = np.random.default_rng(0).integers(0, model.dims.vocab, max(prefill_tokens, 1024)).tolist()
    logits, _ = model.forward(tokens[:HASHED_TOKENS])
    model.forward(tokens[:prefill_tokens])
    peak_rss = peak_rss_bytes()
    progress("writing a text to decode")
    texts = own_texts(model)
    density = measure_density(weights, texts, threads)
    tokens = np.resize(texts, len(tokens)).tolist()

    kinds = sorted({(1, FULL_BITS), *((batch, bits) for batch in batches for bits in (FULL_BITS, state_bits))})
    decoders = {kind: Decoder(model, tokens, *kind) for kind in kinds}
    decoding: dict[tuple[int, int], list[float]] = {kind: [] for kind in kinds}
    prefilling: list[float] = []
    reading: list[float] = []
    mapped: list[float] = []
    multiplying: list[float] = []
    with Roofline(model.threads) as roofline:
        for index in range(rounds):
            progress(f"round {index + 1} of {rounds}")
            reading.append(roofline.read())
            if packed.contents.held().pages == "map":
                mapped.append(roofline.read(np.frombuffer(packed.contents.data, np.uint8)))
            multiplying.append(roofline.multiply())
            for kind, decoder in decoders.items():
                decoding[kind].append(decoder.tokens_per_second())
            started = time.perf_counter()
            model.forward(tokens[:prefill_tokens])
            prefilling.append(prefill_tokens / (time.perf_counter() - started))
    medians = {kind: statistics.median(speeds) for kind, speeds in decoding.items()}
    speed, bytes_a_token, fastest = medians[1, FULL_BITS], bytes_per_token(packed), max(reading)
    most = max(multiplying)
    held = packed.contents.held()
    return {
        "file": str(file),
        "arch": model.arch,
        "decode_tok_s": speed,
        "decode_tok_s_rounds": decoding[1, FULL_BITS],
        "prefill_tok_s": statistics.median(prefilling),
        "batch_tok_s": {str(batch): medians[batch, FULL_BITS] for batch in batches},
        "state_bits": state_bits,
        "batch_tok_s_state_bits": {str(batch): medians[batch, state_bits] for batch in batches if state_bits != FULL_BITS},
        "gb_s": speed * bytes_a_token / 1e9,
        "roofline_gb_s": fastest / 1e9,
        "roofline_gop_s": most / 1e9,
        "prefill_share": statistics.median(prefilling) * int8_operations_per_token(packed) / most,
        "roofline_share": speed * bytes_a_token / fastest,
        "bytes_per_token": bytes_a_token,
        "density": None if density is None else density.to_json() | {"asked": packed.quantization_config.get("density")},
        "threads": model.threads,
        "backend": model.backend,
        "tuning": None if model.tuning is None else dataclasses.asdict(model.tuning),
        "tuning_line": str(model.tuning),
        "pages": held.pages,
        "pages_line": str(held),
        "huge_share": held.huge_share,
        "mapped_share": max(mapped) / fastest if mapped else None,
        "peak_rss_bytes": peak_rss,
        "logits_hash": logits_hash(logits),
        "file_bytes": packed.file_bytes,
        "decoded_layouts": packed.decoded_layouts(),
        "bits_per_weight": packed.ledger().bits_per_weight,
        "prefill_tokens": prefill_tokens,
        "rounds": rounds,
        "machine": platform.platform(),
    }


def warning(result: dict[str, Any]) -> str | None:
    """A sentence for a mapped file that costs speed, from what `measure` gives; None if there is nothing to say."""
    share = result["mapped_share"]
    if share is None or share >= SLOW:
        return None
    return (
        f"the mapped file is read at {100 * share:.0f} % of the speed of this machine's memory, because its pages are small or far from "
        "one another; try --pages huge, or where that cannot be had, copy the file to a new name while much memory is free, and use that"
    )


class Decoder:
    """Reads one token after another into `batch` sequences, each in its own slot, through the public API."""

    def __init__(self, model: Model, tokens: list[int], batch: int, state_bits: int = FULL_BITS) -> None:
        self._slots, self._tokens, self._batch = model.slots(batch, state_bits), tokens, batch
        self._own = [self._slots.add() for _ in range(batch)]
        self._steps = max(2, round(SECONDS / self._seconds(2)))

    def tokens_per_second(self) -> float:
        return self._batch / self._seconds(self._steps)

    def _seconds(self, steps: int) -> float:
        """The time of one step."""
        started = time.perf_counter()
        for step in range(steps):
            self._slots.forward({slot: [self._tokens[(step + slot) % len(self._tokens)]] for slot in self._own})
        return (time.perf_counter() - started) / steps


def bytes_per_token(packed: PackedFile) -> int:
    """What decoding one token must read and write; see the module's docstring."""
    embedding = packed.architecture.embedding.name
    row = packed.stored_bytes(embedding) // packed.dims.vocab
    others = sum(packed.stored_bytes(name) for name in packed.tensors if name != embedding)
    return others + row + 2 * state_bytes(packed.architecture, packed.dims)


def int8_operations_per_token(packed: PackedFile) -> int:
    """The int8 operations for one token of a prompt: in quantised projections and LoRA factors; few tokens need the head."""
    entries = [entry for entry in packed.tensors.values() if entry.role in QUANTIZED_ROLES and _in_int8(entry.packing)]
    return 2 * sum(entry.weights for entry in entries)


def _in_int8(packing: Packing) -> bool:
    form = packing.codec.native(packing)
    return form is not None and form.int8


def state_bytes(architecture: Architecture, dims: Dims) -> int:
    """The bytes of the state of one sequence, before the first token."""
    return sum(array.nbytes for array in architecture.zero_state(dims).arrays)


def peak_rss_bytes() -> int | None:
    """The peak memory of this process, with pages of mapped files; None where the system does not give it."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
