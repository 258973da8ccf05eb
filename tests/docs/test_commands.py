"""Every command in a document can be copied: its options exist, and those of the README, quickstart and recipes run, in their order.

They run on a small random model in place of the reader's. `quantize` is called with the options of the page, and then does its work
with a fast method: whether the default gives a good file is tested elsewhere, and takes 20 seconds each time.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import rwkvquant.pipeline.quantize as pipeline
from rwkvquant.cli.main import run
from rwkvquant.config import QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.images import png_bytes
from rwkvquant.recipes import recipe_for
from tests.docs.commands import (
    ROOT,
    arguments,
    command_lines,
    command_names,
    inline,
    options_of,
    parse_error,
    python_blocks,
)
from tests.helpers import random_state_dict, write_pth
from tests.vision import random_vrwkv, with_meta

PAGES = [
    path
    for folder, pattern in ((ROOT, "README.md"), (ROOT / "docs", "*.md"), (ROOT / "docs/methods", "*.md"), (ROOT / "demo", "**/*.md"))
    for path in sorted(folder.glob(pattern))
]
RUN = ["README.md", "docs/quickstart.md", "docs/recipes.md"]
TOO_LARGE = re.compile(r"rwkvquant (bench --random|demo)")  # a released shape is hundreds of megabytes; `make demo` and others test demo
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 20
WIDTH = 256  # the least that the k-quants of GGUF hold


def write_files(folder: Path) -> None:
    """What a reader has: checkpoints, texts, an adapter, a tuned state."""
    ranks = {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 32}
    model = random_state_dict("rwkv7", layers=1, width=WIDTH, hidden=WIDTH, head_size=64, ranks=ranks)
    for name in ("model.pth", "RWKV-x070-World-0.4B-v2.9-20250107-ctx4096.pth"):
        write_pth(folder / name, model)
    write_pth(folder / "other.pth", random_state_dict("rwkv7", layers=1, width=WIDTH, hidden=WIDTH, head_size=64, ranks=ranks, vocab=4096))
    (folder / "tokenizer.json").write_bytes((ROOT / "tests/data/tokenizer.json").read_bytes())
    for name in ("some.txt", "mine.txt", "prompt.txt"):
        (folder / name).write_text(TEXT[:600] if name == "prompt.txt" else TEXT)
    (folder / "mine.jsonl").write_text("".join(json.dumps({"text": TEXT[:900]}) + "\n" for _ in range(20)))
    (folder / "lambada.jsonl").write_text('{"text": "the cat sat on the mat"}\n')
    lora = {f"blocks.0.att.key.lora_{side}": torch.full((4, WIDTH) if side == "A" else (WIDTH, 4), 0.01) for side in "AB"}
    write_pth(folder / "lora.pth", lora)
    (folder / "adapter").mkdir()
    (folder / "adapter/adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8}))
    save_file({f"base_model.model.{name}.weight": tensor for name, tensor in lora.items()}, folder / "adapter/adapter_model.safetensors")
    torch.save(with_meta(random_vrwkv(width=128, hidden=256), classes=list("abcde")), folder / "vision.pth")
    (folder / "photo.png").write_bytes(png_bytes(np.full((20, 30, 3), 99, np.uint8)))
    write_pth(folder / "state.pth", {"blocks.0.att.time_state": torch.zeros(WIDTH // 64, 64, 64)})


def fast(work: Callable[..., Any]) -> Callable[..., Any]:
    """`work` on a request that is quick, after the one that was asked for was found to be possible."""

    def run_fast(source: Any, *rest: Any, **named: Any) -> Any:
        place = next(index for index, value in enumerate(rest) if isinstance(value, QuantizeRequest))
        request: QuantizeRequest = rest[place]
        recipe_for(request)
        few = dataclasses.replace(request.calibration, rows=2, length=32)
        quick = QuantizeRequest(method="rtn", code_bits=4, calibration=few, tokenizer=request.tokenizer, adapter=request.adapter)
        named.pop("work_dir", None)
        return work(source, *rest[:place], quick, *rest[place + 1 :][:1], **named)

    return run_fast


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a reader, who is in it."""
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "quantize", fast(pipeline.quantize))
    monkeypatch.setattr(pipeline, "plan_only", fast(pipeline.plan_only))
    return tmp_path


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_of_documents_have_only_options_that_exist(page: Path) -> None:
    errors = [
        f"{line}: {error}"
        for line in command_lines(page.read_text())
        if line.startswith("rwk") and (error := parse_error(arguments(line)[0]))
    ]
    assert errors == []


def unknown_options(text: str) -> list[str]:
    """Spans such as `quantize --card` or `rwkvquant bench --random` with an option that the command does not have."""
    wrong = []
    for span in inline(text):
        words = span.removeprefix("rwkvquant ").split()
        if words and words[0] in command_names():
            wrong += [f"{words[0]} {word}" for word in words[1:] if re.match(r"--?[a-z]", word) and word not in options_of(words[0])]
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_options_named_in_sentences_exist(page: Path) -> None:
    assert unknown_options(page.read_text()) == []


def test_the_checks_of_commands_can_fail() -> None:
    assert "--bist" in str(parse_error(arguments("rwkvquant quantize model.pth -o x --bist 3   # a comment")[0]))
    assert "quantise" in str(parse_error(["quantise", "model.pth"]))
    assert parse_error(["quantize", "model.pth", "-o", "x", "--bits", "3"]) is None
    assert "--output" in str(parse_error(["export", "model.safetensors"]))
    assert unknown_options("say `quantize --cards` or `rwkvquant chat --seed` or `chat -q`") == ["quantize --cards", "chat -q"]
    with pytest.raises(ConfigError):
        fast(lambda *_, **__: None)("model.pth", "out", QuantizeRequest(method="paper", act_order=True))


@pytest.mark.parametrize("page", RUN)
def test_commands_of_a_page_run_in_order(page: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = command_lines((ROOT / page).read_text())
    assert len(lines) >= 2
    for line in lines:
        if line.startswith("mkdir "):
            Path(line.split()[1]).mkdir(exist_ok=True)
        elif not TOO_LARGE.match(line):
            words, stdin = arguments(line)
            given = (reader / stdin).read_bytes() if stdin else b"Hello\n/quit\n"
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
            make_inputs(words)
            assert run(words + short(words)) == 0, line


def short(words: list[str]) -> list[str]:
    """Options that keep a command short, where the page does not give them."""
    own = {"chat": ["-n", "4"], "bench": ["--rounds", "1", "--prefill", "16"], "activations": ["--rows", "2", "--length", "32"]}.get(
        words[0], []
    )
    return ["--calib-rows", "2", "--calib-len", "32"] if "--gguf-type" in words else own


def make_inputs(words: list[str]) -> None:
    """Files that a reader has from elsewhere and that only we can write: a GGUF, and packed files of an earlier section."""
    for name in words:
        if name == "model.gguf" and not Path(name).exists():
            assert run(["export", "model.safetensors", "-o", name, "--layout", "gguf"]) == 0


def test_python_examples_of_recipes_run(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "model.pth", "-o", "model.safetensors"]) == 0
    names: dict[str, Any] = {}
    for block in python_blocks((ROOT / "docs/recipes.md").read_text()):
        exec(block, names)
    assert set(names["logits_by_slot"]) == {names["first"], names["second"]}


def test_extras_that_documents_install_exist() -> None:
    """pip install '.[quantize]' and others: pip only warns about an extra that it does not know."""
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    named = {extra for page in PAGES for extra in re.findall(r"pip install '(?:\.|rwkv-hybridquant)\[(\w+)\]'", page.read_text())}
    assert named and named <= extras.keys()


def test_make_targets_that_documents_name_exist() -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    named = {target for page in PAGES for target in re.findall(r"(?:^    |`)make ([a-z-]+)", page.read_text(), re.MULTILINE)}
    assert named >= {"demo", "test"} and named <= set(targets)
