"""What a search tries: decisions of mutators, a file made from them, and everything that the package does with it.

The search makes decisions and not files, so that every file has right lengths and checksums. The latest file is in FUZZ_FOLDER.
"""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from tests.fuzz import checkpoints, ggufs, packed
from tests.fuzz.choices import from_bytes
from tests.fuzz.limits import FACTOR, time_in_bounds

ARCHITECTURES = ("rwkv7", "rwkv6")
PACKED = (*ARCHITECTURES, "vrwkv")
Target = Callable[[bytes], None]


def target(what: str, count_memory: bool) -> Target:
    """For "packed", "checkpoint" or "gguf", a function of decisions; it raises every error that is not an RwkvQuantError."""
    folder = Path(os.environ["FUZZ_FOLDER"])
    parts = [packed.take_apart(packed.base(folder, arch)) for arch in PACKED]
    pths = [checkpoints.base_pth(arch) for arch in ARCHITECTURES]
    safetensors = [checkpoints.base_safetensors(arch) for arch in ARCHITECTURES]
    gguf = [ggufs.base(folder, arch) for arch in ARCHITECTURES]

    def try_packed(decisions: bytes) -> None:
        choices = from_bytes(decisions)
        use(packed.use, folder / "m.safetensors", packed.mutated(choices.one_of(parts), choices), count_memory)

    def try_checkpoint(decisions: bytes) -> None:
        choices = from_bytes(decisions)
        if choices.below(4) == 3:
            use(checkpoints.use, folder / "m.st", checkpoints.mutated_safetensors(choices.one_of(safetensors), choices), count_memory)
        else:
            use(checkpoints.use, folder / "m.pth", checkpoints.mutated_pth(choices.one_of(pths), choices), count_memory)

    def try_gguf(decisions: bytes) -> None:
        choices = from_bytes(decisions)
        use(ggufs.use, folder / "m.gguf", ggufs.mutated(choices.one_of(gguf), choices), count_memory)

    chosen = {"packed": try_packed, "checkpoint": try_checkpoint, "gguf": try_gguf}[what]
    chosen(b"")  # imports and caches, before anything is counted
    return chosen


def use(everything: Callable[[Path], int], path: Path, content: bytes, count_memory: bool) -> None:
    path.write_bytes(content)
    if count_memory:
        tracemalloc.start()
    try:
        with time_in_bounds():
            everything(path)
        peak, most = tracemalloc.get_traced_memory()[1], FACTOR * len(content) + (1 << 20)
        assert peak <= most, f"a file of {len(content)} bytes took {peak} bytes"
    finally:
        tracemalloc.stop()
