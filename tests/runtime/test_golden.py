"""Committed packed files go on giving the same words: the format, the decoding and the forward in one check.

The words were recorded once from these files; they are greedy, so neither a change of rounding order nor int8 activations move them.
Between them the files have the grids, codebooks and rotated inputs of the default, the compressed codebooks of the paper, and pairs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from rwkvquant import _native
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load

DATA = Path(__file__).parents[1] / "data"
DEMO = Path(str(resources.files("rwkvquant") / "assets" / "rwkv7-8m-3.275bpw.safetensors"))
PROMPT = "The old man looked out of the window and said"
TOKENS = 24  # the demo model hesitates between two words after that
TINY = ', "I am not afraid of the world. I am not afraid of the world, and I am not afraid of'
GOLDEN = {
    DEMO: ':\n\n"I am not going to do it," he said, "I am not going to do it.',
    DATA / "rwkv6-8m-gptq.safetensors": ':\n\n"I am not going to do it. I have been a little more than I can do. I',
    DATA / "rwkv7-tiny-rtn4.safetensors": TINY,
    DATA / "rwkv7-tiny-paper.safetensors": TINY,
    DATA / "rwkv7-tiny-pairs.safetensors": TINY,
}
WRITE = """
import sys
from rwkvquant import _native
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import load
isa, prompt, tokens, *files = sys.argv[1:]
for file in files if isa in _native.available_isas() else []:
    model = load(file)
    assert model.backend == isa
    sys.stdout.buffer.write(model.generate(prompt, max_tokens=int(tokens), sampling=SamplingConfig(temperature=0)).text.encode() + b"\\0")
"""


@pytest.mark.parametrize(("path", "words"), GOLDEN.items(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_golden_words(path: Path, words: str) -> None:
    generated = load(path, activations="float32").generate(PROMPT, max_tokens=TOKENS, sampling=SamplingConfig(temperature=0))
    assert generated.text == words


@pytest.mark.parametrize("isa", ["plain", "avx2", "avxvnni", "avx512", "neon", "i8mm", "reference"])
def test_golden_words_on_every_instruction_set(isa: str) -> None:
    """In a process of its own, because the body is chosen once; a body that this CPU lacks is left out."""
    environment = {"RWKVQUANT_KERNELS": "reference"} if isa == "reference" else {"RWKVQUANT_ISA": isa}
    if isa != "reference" and isa not in _native.available_isas():
        pytest.skip(f"needs a CPU with {isa}")
    script = WRITE.replace("_native.available_isas()", "('reference',)") if isa == "reference" else WRITE
    result = subprocess.run(
        [sys.executable, "-c", script, isa, PROMPT, str(TOKENS), *GOLDEN], capture_output=True, env=os.environ | environment
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().split("\0")[:-1] == list(GOLDEN.values())


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_golden_files_are_whole(path: Path) -> None:
    open_packed(path).verify()
