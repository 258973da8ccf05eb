"""The native module on one emulated CPU: it loads, finds the bodies that this CPU runs, takes the best, and that one is right.

run.sh calls this under qemu and names the bodies in EXPECTED_BODIES; by its name it is no part of `make test`. What is expected of
the numbers is what the native tests expect: the NumPy definitions, and the golden words.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwkvquant import _native
from rwkvquant.kernels import dispatch
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load
from tests.kernels import matrices, test_product
from tests.runtime.test_golden import INT8, PROMPT

EXPECTED = os.environ["EXPECTED_BODIES"].split()
STRIDE = 33  # of every_layout: one length has each 33rd layout, the next length the ones behind them


def test_the_bodies_of_this_cpu_are_found_and_the_best_is_taken() -> None:
    assert _native.available_isas() == EXPECTED
    assert dispatch.backend() == EXPECTED[-1]


@pytest.mark.parametrize(("path", "words"), INT8.items(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_golden_words(path: Path, words: str) -> None:
    model = load(path)
    assert model.backend == EXPECTED[-1]
    assert model.generate(PROMPT, max_tokens=32, sampling=SamplingConfig(temperature=0))["text"] == words


def test_every_length_up_to_two_tiles_and_every_remainder_of_rows() -> None:
    for cols in range(1, 130):
        for matrix in matrices.every_layout(cols * 7 % 33 + 1, cols)[cols % STRIDE :: STRIDE]:
            test_product.check(matrix, test_product.vectors(cols % 3 + 1, cols))
