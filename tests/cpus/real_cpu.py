"""The logits of random models on the real CPU: `python -m tests.cpus.real_cpu FOLDER` writes the models, and the logits to compare with.

NumPy cannot be the reference for these bits: its products round as OpenBLAS does for the CPU it runs on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rwkvquant.runtime.session import load
from tests.runtime.test_engine import SIZES, random_weights

TOKENS = [5, 1, 76, 0, 33]


def logits(model: Path) -> dict[str, NDArray[np.float32]]:
    """(tokens, vocab) by kind of activations."""
    return {kind: load(model, threads=2, activations=kind).forward(TOKENS, logits="all")[0] for kind in ("int8", "float32")}


def main(folder: Path) -> None:
    for name in SIZES:
        inside = folder / name.replace(" ", "-")
        inside.mkdir()
        random_weights(inside, name, seed=1)
        np.savez(inside / "logits.npz", **logits(inside / "random.safetensors"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
