"""rwkvquant activations: one tensor by its name or by a pattern, on the terminal, as JSON and as a figure."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.calibration.activations import collect_activation, distribution
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.histogram import WIDTH, bar, histogram
from rwkvquant.cli.main import run
from rwkvquant.evaluation.activations import find_meeting, to_json
from rwkvquant.models import CheckpointSource
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.helpers import random_state_dict, write_pth

SMALL = ("--text", "some.txt", "--rows", "3", "--length", "40")
TEXT = "A text to look at activations with. " * 30


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for arch in ("rwkv7", "rwkv6"):
        write_pth(tmp_path / f"{arch}.pth", random_state_dict(arch))
    (tmp_path / "some.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert run(["activations", *arguments, *SMALL, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("file", "pattern", "tensor", "activation", "width"),
    [
        ("rwkv7.pth", "blocks.1.att.r_k", "blocks.1.att.r_k", "att.r_times_k", 64),
        ("rwkv7.pth", "1.ffn.val*", "blocks.1.ffn.value.weight", "ffn.hidden", 256),
        ("rwkv7.pth", "blocks.0.att.w2", "blocks.0.att.w2", "att.w_hidden", 16),
        ("rwkv7.pth", "head", "head.weight", "head.x", 64),
        ("rwkv6.pth", "blocks.1.att.time_maa_w2.3", "blocks.1.att.time_maa_w2.3", "att.maa_hidden", 8),
    ],
)
def test_json_holds_the_distribution_of_what_the_tensor_meets(
    file: str, pattern: str, tensor: str, activation: str, width: int, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answer(capsys, file, pattern)
    assert (told["tensor"], told["activation"], told["width"]) == (tensor, activation, width)
    assert told["meets"] == ("partner" if tensor.endswith("r_k") else "input")
    checkpoint = open_checkpoint(file)
    met = find_meeting(checkpoint, tensor)
    tokens = calibration_rows(load_documents("some.txt"), load_tokenizer(None, 256), 3, 40)
    found = distribution(collect_activation(CheckpointSource(checkpoint), tokens, met.layer, activation, met.index), 99.0)
    assert told["histogram"]["counts"] == found.counts.tolist() and sum(told["histogram"]["counts"]) == told["values"] == 3 * 40 * width
    assert len(told["histogram"]["edges"]) == len(told["histogram"]["normal"]) + 1
    assert told["clip"] == {"percentile": 99.0, "low": found.clip_low, "high": found.clip_high, "share": found.clip_share}
    assert told["percentiles"].keys() == {"0.1", "1", "5", "50", "95", "99", "99.9"} and told["kurtosis"] == found.kurtosis
    assert [entry["channel"] for entry in told["channels"]] == found.largest_channels(8)


@pytest.mark.usefixtures("folder")
def test_the_text_of_the_package_is_used_without_another(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["activations", "rwkv7.pth", "blocks.0.att.x_k", "--rows", "2", "--length", "16", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["rows"], told["length"]) == (2, 16)


@pytest.mark.usefixtures("folder")
def test_the_terminal_shows_every_bin_and_where_the_clip_lies(capsys: pytest.CaptureFixture[str]) -> None:
    told = answer(capsys, "rwkv7.pth", "blocks.1.att.r_k")
    assert run(["activations", "rwkv7.pth", "blocks.1.att.r_k", *SMALL]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert "att.r_times_k, multiplied element by element with blocks.1.att.r_k: 3 rows of 40 tokens of 64" in shown[0]
    lines = shown[3 : 3 + len(told["histogram"]["counts"])]
    for line, low, high in zip(lines, told["histogram"]["edges"], told["histogram"]["edges"][1:], strict=False):
        assert [float(word) for word in line.split()[:2]] == [float(f"{low:.4g}"), float(f"{high:.4g}")]
        for bound in (told["clip"]["low"], told["clip"]["high"]):
            assert (f"clip at {bound:.4g}" in line) == (low <= bound < high)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_figures_are_the_same_bytes_again(ending: str) -> None:
    for name in ("one", "two"):
        assert run(["activations", "rwkv7.pth", "blocks.1.ffn.value", *SMALL, "-o", f"{name}{ending}", "--json"]) == 0
    drawn = Path(f"one{ending}").read_bytes()
    assert drawn == Path(f"two{ending}").read_bytes()
    assert b"<svg" in drawn if ending == ".svg" else drawn.startswith(b"\x89PNG")


MISTAKES = {
    "a misspelt tensor": (["blocks.0.att.kee"], "Did you mean blocks.0.att.key"),
    "several tensors": (["att.key"], "'att.key' matches 2 names, blocks.0.att.key.weight, blocks.1.att.key.weight; give one of them"),
    "many tensors": (["att"], ", ...; give one of them"),
    "all slices of one": (["blocks.0.att.time_maa_w2"], "matches 5 names"),
    "a norm": (["blocks.0.ln1.weight"], "norms, biases and the embedding"),
    "an unused tensor": (["blocks.0.att.v1"], "no name of a matrix or element-wise vector"),
    "a figure of another kind": (["head", "-o", "a.pdf"], ".svg or .png; got a.pdf"),
    "a folder that is not there": (["head", "-o", "no/a.svg"], "the folder of the figure must exist; no does not (no/a.svg)"),
    "no rows": (["head", "--rows", "0"], "--rows"),
    "a text too short": (["head", "--length", "5000"], "--length"),
    "no text": (["head", "--text", "none.txt"], "none.txt"),
}


@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence(arguments: list[str], named: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(folder.iterdir())
    file = "rwkv6.pth" if "w2" in arguments[0] else "rwkv7.pth"
    assert run(["activations", file, *SMALL, *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("rwkvquant: ") and said.err.count("\n") == 1 and named in said.err
    assert sorted(folder.iterdir()) == before


@pytest.mark.usefixtures("folder")
def test_without_matplotlib_the_figure_is_refused_before_the_work(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run(["activations", "rwkv7.pth", "no such tensor", "-o", "a.svg"]) == 2
    assert "pip install 'rwkv-hybridquant[plot]'" in capsys.readouterr().err
    assert run(["activations", "rwkv7.pth", "head", *SMALL]) == 0


def test_bars_end_where_their_share_is() -> None:
    assert bar(0, 0) == " " * WIDTH and bar(1, 0) == "█" * WIDTH and bar(1, 0, ascii_only=True) == "#" * WIDTH
    assert bar(1e-9, 0)[0] == "▏" and bar(1e-9, 0, ascii_only=True)[0] == "#"  # what there is shows
    assert bar(0.5 + 0.5 / WIDTH, 0).rstrip() == "█" * (WIDTH // 2) + "▌"
    assert bar(0.25, 0.5).index("|") == WIDTH // 2 and bar(0, 1).index("|") == WIDTH - 1
    for length in np.linspace(0, 1, 200):
        assert len(bar(length, 1 - length)) == len(bar(length, 1 - length, ascii_only=True)) == WIDTH


def test_values_that_are_all_the_same_can_be_drawn(tmp_path: Path) -> None:
    from rwkvquant.lab.distribution import save_figure

    found = distribution(np.zeros((2, 3, 4), np.float32), 99.0)
    assert "100.00 %" in histogram(found, ascii_only=True)[1] and "clip at 0" in histogram(found)[1]
    save_figure(to_json(found, 99.0), "zeros", str(tmp_path / "zeros.svg"))
