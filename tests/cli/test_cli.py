"""The command line as a user meets it: results on stdout, one sentence and exit code 2 for a mistake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkvquant.cli.main import run
from rwkvquant.formats.container import open_packed
from tests.helpers import random_state_dict, write_pth

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 120


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder: model.pth (bytes vocabulary), some.txt, and they stand in it."""
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=2, width=64))
    (tmp_path / "some.txt").write_text(TEXT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def packed(folder: Path) -> Path:
    assert run(["quantize", "model.pth", "-o", "model.safetensors", "--method", "rtn", "--bits", "4.5"]) == 0
    return folder / "model.safetensors"


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_default_method_runs_from_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """On a model whose shapes can hold the default's bits, with a short calibration text."""
    ranks = {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 32}
    write_pth(folder / "model.pth", random_state_dict("rwkv7", layers=1, width=192, head_size=64, hidden=768, ranks=ranks))
    short = ["--calib", "some.txt", "--calib-len", "64", "--calib-rows", "2"]
    result = answer(capsys, "quantize", "model.pth", "-o", "model.safetensors", "--bits", "3.275", *short)
    assert 3.2 < result["bits_per_weight"] <= 3.275


def test_json_keys_that_other_tools_read(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspected = answer(capsys, "inspect", "model.safetensors")
    assert {"bits_per_weight", "bits_per_weight_projections", "bits_per_weight_file", "file_bytes", "tensors"} <= inspected.keys()
    assert {"name", "role", "method", "layout", "shape", "bits_per_weight"} <= inspected["tensors"][0].keys()
    assert sum(row["stored_bytes"] for row in inspected["ledger"] if not row["subtotal"]) == packed.stat().st_size
    assert {"ppl", "nll", "tokens"} <= answer(capsys, "eval", "model.safetensors", "--text", "some.txt").keys()
    compared = answer(capsys, "compare", "model.pth", "model.safetensors", "--text", "some.txt")
    assert {"kl_mean", "kl_ci95", "kl_p99", "top1_agreement", "ppl_base", "ppl_quantized", "tokens"} <= compared.keys()
    assert compared["kl_mean"] > 0 and compared["tokens"] == len(TEXT)
    generated = answer(capsys, "generate", "model.safetensors", "-p", "The", "-n", "5", "--temperature", "0")
    assert {"text", "tokens", "finish_reason", "logits_hash", "seed"} <= generated.keys() and len(generated["tokens"]) <= 5
    options = ("-p", "The", "-n", "9", "--temperature", "5", "--top-p", "1")
    drawn = answer(capsys, "generate", "model.safetensors", *options)
    assert answer(capsys, "generate", "model.safetensors", *options, "--seed", str(drawn["seed"])) == drawn
    assert answer(capsys, "verify", "model.safetensors")["ok"] is True
    assert answer(capsys, "inspect", "model.pth")["arch"] == "rwkv7"


def test_generate_stops_before_any_of_the_stop_strings(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("generate", "model.safetensors", "-p", "The", "-n", "30", "--seed", "1", "--temperature", "5", "--top-p", "1")
    text = answer(capsys, *options)["text"]
    first, second = text[9], text[5]
    stopped = answer(capsys, *options, "--stop", first, "--stop", second)
    assert stopped["finish_reason"] == "stop" and stopped["text"] == text[: min(text.index(first), text.index(second))]
    assert run([*options, "--stop", second]) == 0
    assert capsys.readouterr().out == "The" + text[: text.index(second)] + "\n"


def test_lambada_of_both_kinds_of_file(packed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("lambada.jsonl").write_text('{"text": "the cat sat on the mat"}\n{"text": "so it goes"}\n')
    for file in ("model.pth", "model.safetensors"):
        assert {"ppl", "acc", "docs"} <= answer(capsys, "eval", file, "--lambada", "lambada.jsonl").keys()


def test_export_gives_the_packed_weights_under_the_checkpoints_names(packed: Path) -> None:
    assert run(["export", "model.safetensors", "-o", "back.pth", "--dtype", "fp32"]) == 0
    original, back = torch.load("model.pth"), torch.load("back.pth")
    assert back.keys() == original.keys() - {f"blocks.0.att.v{i}" for i in range(3)}  # unused, so not kept
    for name, values in back.items():
        assert values.shape == original[name].shape, name
        assert (values - original[name]).abs().max() < 0.6 * original[name].abs().max(), name
    assert torch.equal(back["blocks.1.att.w1"].T, torch.from_numpy(open_packed(packed).qtensor("blocks.1.att.w1").decode()))


MISTAKES = {
    "a misspelt option": (["quantize", "model.pth", "-o", "x", "--bist", "4"], "--bits"),
    "a misspelt command": (["quantise", "model.pth"], "quantise"),
    "no checkpoint": (["quantize", "nothing.pth", "-o", "x.safetensors"], "nothing.pth"),
    "a folder as checkpoint": (["quantize", ".", "-o", "x.safetensors"], "directory"),
    "a text as checkpoint": (["quantize", "some.txt", "-o", "x.safetensors"], "some.txt"),
    "a folder as output": (["quantize", "model.pth", "-o", "."], "directory"),
    "a missing folder for the output": (["quantize", "model.pth", "-o", "no/where.safetensors"], "no"),
    "no output": (["quantize", "model.pth"], "-o"),
    "a method that does not exist": (["quantize", "model.pth", "-o", "x", "--method", "gtpq"], "gptq"),
    "bits that are not a number": (["quantize", "model.pth", "-o", "x", "--bits", "three"], "--bits"),
    "bits out of reach": (["quantize", "model.pth", "-o", "x", "--bits", "1.5"], "smallest reachable"),
    "a budget and a grid": (["quantize", "model.pth", "-o", "x", "--method", "gptq", "--bits", "4", "--code-bits", "4"], "not both"),
    "an override without a match": (
        ["quantize", "model.pth", "-o", "x", "--method", "rtn", "--bits", "6", "--tensor-bits", "att.kee=4"],
        "att.kee",
    ),
    "no calibration text": (["quantize", "model.pth", "-o", "x", "--calib", "none.txt"], "none.txt"),
    "an empty calibration text": (["quantize", "model.pth", "-o", "x", "--calib", "empty.txt"], "empty.txt"),
    "a calibration text too short": (["quantize", "model.pth", "-o", "x", "--calib", "short.txt"], "too short"),
    "a file that is not a valid vocabulary": (["quantize", "model.pth", "-o", "x", "--tokenizer", "some.txt"], "some.txt"),
    "a GPU that is not there": (["quantize", "model.pth", "-o", "x", "--device", "cuda"], "--device cpu"),
    "a packed file that is a text": (["verify", "some.txt"], "some.txt"),
    "a truncated checkpoint": (["inspect", "half.pth"], "half.pth"),
    "eval without a text": (["eval", "model.pth"], "--text"),
    "an export of a checkpoint": (["export", "model.pth", "-o", "x.pth"], "model.pth"),
    "an output that is the input": (["quantize", "model.pth", "-o", "model.pth"], "input"),
    "a grid without its bits": (["quantize", "model.pth", "-o", "x", "--method", "gptq", "--symmetric"], "--code-bits 4"),
    "an option of other methods": (
        ["quantize", "model.pth", "-o", "x", "--method", "paper", "--act-order"],
        "rwkvquant, gptq, gptvq, quarot, gptaq, qronos, vptq and pcdvq",
    ),
    "a device that does not exist": (["quantize", "model.pth", "-o", "x", "--device", "cpu:abc"], "cpu:abc"),
    "a work directory that is a file": (
        ["quantize", "model.pth", "-o", "x", "--work-dir", "some.txt", "--method", "rtn", "--bits", "5"],
        "folder",
    ),
    "an empty stop string": (["generate", "model.pth", "--stop", ""], "a stop string"),
    "no tokens to generate": (["generate", "model.pth", "-n", "0"], "-n"),
    "a file name with brackets": (["inspect", "a[/b].pth"], "a[/b].pth"),
}


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(("arguments", "named"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    Path("empty.txt").write_text("")
    Path("short.txt").write_text("Too short.")
    Path("half.pth").write_bytes(Path("model.pth").read_bytes()[:50_000])
    before = sorted(path.name for path in Path().iterdir())
    assert run(arguments) == 2
    captured = capsys.readouterr()
    sentence = captured.err.strip().split("\n")[-1]
    assert captured.out == "" and sentence.startswith("rwkvquant: ") and named in sentence
    assert "Traceback" not in captured.err
    assert sorted(path.name for path in Path().iterdir()) == before


def test_the_process_says_the_same(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "rwkvquant", "inspect", "some.txt"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("rwkvquant: ")


def test_export_says_which_values_do_not_fit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random_state_dict("rwkv7", layers=1, width=64)
    state["emb.weight"] *= 1e6
    write_pth(folder / "large.pth", state)
    assert run(["quantize", "large.pth", "-o", "large.safetensors", "--method", "rtn", "--bits", "5"]) == 0
    assert run(["export", "large.safetensors", "-o", "back.pth"]) == 2
    assert "emb.weight has values outside the range of fp16" in capsys.readouterr().err
    assert not Path("back.pth").exists()
    assert run(["export", "large.safetensors", "-o", "back.pth", "--dtype", "bf16"]) == 0


def test_weights_far_too_large_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = random_state_dict("rwkv7", layers=2, width=64)
    state["blocks.1.att.key.weight"] *= 1e30
    write_pth(folder / "huge.pth", state)
    assert run(["quantize", "huge.pth", "-o", "x.safetensors", "--calib", "some.txt", "--calib-rows", "2", "--calib-len", "64"]) == 2
    assert "blocks.1." in capsys.readouterr().err


def test_a_reader_that_leaves_early_is_no_error(packed: Path) -> None:
    command = [sys.executable, "-m", "rwkvquant", "inspect", str(packed), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as job:
        assert job.stdout is not None and job.stderr is not None
        job.stdout.close()
        said = job.stderr.read()
    assert job.returncode == 0 and said == ""


def test_no_command_at_all_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 2
    captured = capsys.readouterr()
    assert "quantize" in captured.out + captured.err and "rwkvquant: ." not in captured.err
