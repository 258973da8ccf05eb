"""Committed packed files go on giving the same words: the format, the decoding and the forward in one check.

The words were recorded once from these files; they are greedy, so a change of rounding order alone does not move them.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load

DATA = Path(__file__).parents[1] / "data"
DEMO = Path(str(resources.files("rwkvquant") / "assets" / "rwkv7-8m-3.275bpw.safetensors"))
PROMPT = "The old man looked out of the window and said"
GOLDEN = {
    DEMO: ':\n\n"I am not going to do it," he said, "I am not going to do it. I am sure I am not going to',
    DATA / "rwkv6-8m-gptq.safetensors": (
        ':\n\n"I am not going to do it. I have been a little more than I can do. I have been a little more than I can'
    ),
    DATA / "rwkv7-tiny-rtn4.safetensors": (
        ', "I am not afraid of the world. I am not afraid of the world, and I am not afraid of the world. I am not afraid of'
    ),
}


@pytest.mark.parametrize(("path", "words"), GOLDEN.items(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_golden_words(path: Path, words: str) -> None:
    generated = load(path).generate(PROMPT, max_tokens=32, sampling=SamplingConfig(temperature=0))
    assert generated["text"] == words


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_are_whole(path: Path) -> None:
    open_packed(path).verify()
