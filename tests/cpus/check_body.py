"""The native module on one emulated CPU: it loads, finds the bodies that this CPU runs, takes the best, and all of them are right.

run.sh, here and in tests/arm, calls this under qemu and names the bodies in EXPECTED_BODIES; by its name it is not part of `make test`.
The numbers must be those of the NumPy definitions, the golden words, and the bits that the real CPU gave (real_cpu.py), which are in the
folder REAL_CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.kernels import dispatch
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load
from tests.cpus.real_cpu import logits
from tests.kernels import test_product
from tests.kernels.guarded import body
from tests.runtime.test_golden import GOLDEN, PROMPT, TOKENS

EXPECTED = os.environ["EXPECTED_BODIES"].split()
REAL_CPU = Path(os.environ["REAL_CPU"])
STRIDE = 33  # of all layouts for a length


def test_the_bodies_of_this_cpu_are_found_and_the_best_is_taken() -> None:
    assert _native.available_isas() == EXPECTED
    assert dispatch.backend() == EXPECTED[-1]


@pytest.mark.parametrize("isa", EXPECTED)
@pytest.mark.parametrize(("path", "words"), GOLDEN.items(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_golden_words(path: Path, words: str, isa: str) -> None:
    with body(isa):
        model = load(path)
        assert model.backend == isa
        assert model.generate(PROMPT, max_tokens=TOKENS, sampling=SamplingConfig(temperature=0)).text == words


@pytest.mark.parametrize("isa", EXPECTED)
@pytest.mark.parametrize("model", sorted(REAL_CPU.iterdir()), ids=lambda path: path.name)
def test_logits_are_the_bits_of_the_real_cpu(model: Path, isa: str) -> None:
    with np.load(model / "logits.npz") as want, body(isa):
        got = logits(model / "random.safetensors")
        assert want.files == list(got)
        for kind, values in got.items():
            assert values.tobytes() == want[kind].tobytes(), kind


def test_every_length_up_to_two_tiles_and_every_remainder_of_rows() -> None:
    test_product.check_every_length(STRIDE)
