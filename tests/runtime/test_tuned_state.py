"""A tuned state from a file of its own gives the logits of a checkpoint that holds it; a wrong one is refused by name and shape."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rwkvquant.cli.main import run
from rwkvquant.errors import CheckpointError, ConfigError, RwkvQuantError
from rwkvquant.runtime.chat import Chat
from rwkvquant.runtime.sampling import SamplingConfig
from rwkvquant.runtime.session import Model, load
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.tuned import open_state
from tests.checkpoints.writers import write_zip
from tests.helpers import random_state_dict, write_pth

ARCHS = ("rwkv7", "rwkv6")
TOKENS = [12, 7, 99, 3]
GREEDY = SamplingConfig(temperature=0.0)
Tensors = dict[str, torch.Tensor]


def whole(arch: str, **options: object) -> Tensors:
    return random_state_dict(arch, layers=2, width=32, head_size=8, time_state=True, **options)


def state_of(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name.endswith("time_state")}


def model_of(path: Path, tensors: Tensors) -> Model:
    """The model without its tuned state."""
    return load(write_pth(path, {name: t for name, t in tensors.items() if not name.endswith("time_state")}), threads=1)


def swapped(tensors: Tensors) -> Tensors:
    return {name: tensor.transpose(1, 2).contiguous() for name, tensor in tensors.items()}


def pth(path: Path, tensors: Tensors) -> Path:
    return write_pth(path.with_suffix(".pth"), tensors)


def safetensors(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path.with_suffix(".st"))
    return path.with_suffix(".st")


def exported(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path.with_suffix(".st"), {"rwkvquant_layout": "blinkdl"})
    return path.with_suffix(".st")


FILES: dict[str, tuple[Callable[[Path, Tensors], Path], bool, str | None]] = {
    "pth as training writes it": (pth, False, None),
    "pth of the state in memory of the rwkv package": (pth, True, "key-value"),
    "safetensors of web-rwkv": (safetensors, True, None),
    "safetensors as training orders it": (safetensors, False, "value-key"),
    "safetensors that names its layout": (exported, False, None),
    "dicts around it": (lambda path, t: pth(path, {"epoch": 3, "state_dict": t}), False, None),  # type: ignore[dict-item]
    "words before the names": (lambda path, t: pth(path, {f"module.model.{name}": v for name, v in t.items()}), False, None),
}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("arch", ARCHS)
def test_it_gives_the_logits_of_a_checkpoint_that_holds_it(tmp_path: Path, arch: str, file: str) -> None:
    tensors, (write, is_swapped, order) = whole(arch), FILES[file]
    tuned = state_of(tensors)
    path = write(tmp_path / "state", swapped(tuned) if is_swapped else tuned)
    model, merged = model_of(tmp_path / "base.pth", tensors), load(write_pth(tmp_path / "merged.pth", tensors), threads=1)
    state = model.tuned_state(path, order)
    for layer in range(2):  # [value, key], the definition in kernels/
        np.testing.assert_array_equal(state.recurrent.wkv[layer, 0], tuned[f"blocks.{layer}.att.time_state"].numpy())
    assert not state.recurrent.att_shift.any() and not state.recurrent.ffn_shift.any()
    expected = merged.forward(TOKENS, logits="all")[0]
    np.testing.assert_array_equal(model.forward(TOKENS, state, "all")[0], expected)
    assert not np.allclose(model.forward(TOKENS, logits="all")[0], expected)
    assert not np.allclose(model.forward(TOKENS, model.tuned_state(pth(tmp_path / "other", swapped(tuned))), "all")[0], expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = whole("rwkv7")
    tuned = {name: tensor.to(dtype) for name, tensor in state_of(tensors).items()}
    state = model_of(tmp_path / "base.pth", tensors).tuned_state(pth(tmp_path / "state", tuned))
    np.testing.assert_array_equal(state.recurrent.wkv[1, 0], tuned["blocks.1.att.time_state"].float().numpy())


def _without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


WRONG: dict[str, tuple[Callable[[Tensors], object], str]] = {
    "a block is missing": (
        _without("blocks.1.att.time_state"),
        r"each of the model's 2 blocks; this file lacks blocks\.1\.att\.time_state",
    ),
    "a block too many": (
        lambda t: t | {"blocks.2.att.time_state": t["blocks.0.att.time_state"]},
        r"2 blocks, .* no blocks\.2\.att\.time_state",
    ),
    "other heads": (
        lambda t: {name: v[:2].clone() for name, v in t.items()},
        r"blocks\.0\.att\.time_state must have the shape \(4, 8, 8\), which is \(H, N, N\) of the model; got \(2, 8, 8\)",
    ),
    "other head size": (
        lambda t: {name: v[:, :4, :4].clone() for name, v in t.items()},
        r"must have the shape \(4, 8, 8\), .* got \(4, 4, 4\)",
    ),
    "a batch axis": (lambda t: {name: v[None] for name, v in t.items()}, r"got \(1, 4, 8, 8\)"),
    "not finite": (lambda t: {name: v * float("nan") for name, v in t.items()}, r"must be finite; blocks\.0\.att\.time_state has 256 NaN"),
    "another dtype": (lambda t: {name: v.double() for name, v in t.items()}, r"blocks\.0\.att\.time_state is float64"),
    "a whole checkpoint": (lambda t: whole("rwkv7"), r"only the tensors blocks\.N\.att\.time_state; this file also has emb\.weight"),
    "another checkpoint": (lambda t: random_state_dict("rwkv7"), r"this file has none, its first tensor is emb\.weight"),
    "an adapter": (lambda t: {"blocks.0.att.key.lora_A": t["blocks.0.att.time_state"][0].clone()}, r"holds an adapter \(lora_A"),
    "a list": (lambda t: list(t.values()), r"a checkpoint is a dict of tensors"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_state_is_refused_by_name_and_shape(tmp_path: Path, case: str) -> None:
    tensors, (change, message) = whole("rwkv7"), WRONG[case]
    path = write_pth(tmp_path / "state.pth", change(state_of(tensors)))  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=rf"state\.pth: .*{message}"):
        model_of(tmp_path / "base.pth", tensors).tuned_state(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello", r"neither a zip \(\.pth\) nor a safetensors file; a state is a \.pth or a safetensors file"),
        (b'{"weight_map": {}}', "this is a JSON file; a state is"),
        (b"", "an empty file; a state is"),
        (None, "there is no such file"),
    ],
    ids=str,
)
def test_a_file_that_is_no_state_is_refused_in_a_sentence(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "x.state"
    if content is not None:
        path.write_bytes(content)
    chat = Chat(model_of(tmp_path / "base.pth", whole("rwkv7")))
    with pytest.raises(RwkvQuantError, match=message):
        chat.load(path)


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path) -> None:
    bomb = b"cbuiltins\nexec\n(X\x1d\x00\x00\x00raise SystemExit('it has run')tR."
    path = write_zip(tmp_path / "state.pth", bomb)
    with pytest.raises(CheckpointError, match=r"asks for builtins\.exec.*nothing was run"):
        model_of(tmp_path / "base.pth", whole("rwkv7")).tuned_state(path)


def test_an_unknown_order_is_refused(tmp_path: Path) -> None:
    tensors = whole("rwkv7")
    path = pth(tmp_path / "state", state_of(tensors))
    with pytest.raises(ConfigError, match="must be one of value-key, key-value; got vk"):
        model_of(tmp_path / "base.pth", tensors).tuned_state(path, "vk")


def test_the_content_decides_whether_a_conversation_continues(tmp_path: Path) -> None:
    tensors = whole("rwkv7")
    model = model_of(tmp_path / "base.pth", tensors)
    after = model.forward(TOKENS)[1]
    after.save(tmp_path / "talk.pth")  # the name says nothing
    opened = open_state(tmp_path / "talk.pth", model.arch, model.dims)
    assert not opened.tuned
    np.testing.assert_array_equal(opened.state.recurrent.wkv, after.recurrent.wkv)
    assert open_state(pth(tmp_path / "state", state_of(tensors)), model.arch, model.dims).tuned
    with pytest.raises(ConfigError, match=r"key-value is for a tuned state; .*talk\.pth is a saved conversation"):
        open_state(tmp_path / "talk.pth", model.arch, model.dims, "key-value")


def test_a_chat_begins_with_it_and_reads_no_token_0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = whole("rwkv7")
    model, path = model_of(tmp_path / "base.pth", tensors), pth(tmp_path / "state", state_of(tensors))
    chat = Chat(model, GREEDY, max_tokens=6)
    list(chat.reply("Before"))
    chat.load(path)  # a new conversation
    heard: list[tuple[list[int], State | None]] = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda tokens, state=None: heard.append((list(tokens), state)) or forward(tokens, state))
    list(chat.reply("Hi"))
    first, begin = heard[0]
    assert first == model.tokenizer.encode("User: Hi\n\nAssistant:") and begin is not None
    np.testing.assert_array_equal(begin.recurrent.wkv, model.tuned_state(path).recurrent.wkv)
    other = Chat(model, GREEDY, max_tokens=6)
    list(other.reply("Hi"))
    assert not np.allclose(chat._places[-1].state.recurrent.wkv, other._places[-1].state.recurrent.wkv)
    fresh = Chat(model, GREEDY)
    fresh.load(path)
    fresh.save(tmp_path / "talk.state")  # nothing was said: the tuned state itself
    np.testing.assert_array_equal(
        open_state(tmp_path / "talk.state", model.arch, model.dims).state.recurrent.wkv, model.tuned_state(path).recurrent.wkv
    )


def test_commands_take_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    tensors = whole("rwkv7")
    model = model_of(tmp_path / "base.pth", tensors)
    pth(tmp_path / "state", state_of(tensors))
    generate = ["generate", "base.pth", "-p", "Hi", "-n", "4", "--temperature", "0"]

    def hash_of(*options: str) -> str:
        capsys.readouterr()
        assert run([*generate, *options, "--json"]) == 0
        return json.loads(capsys.readouterr().out)["logits_hash"]

    for order in (None, "key-value"):
        expected = model.generate("Hi", max_tokens=4, sampling=GREEDY, state=model.tuned_state("state.pth", order)).logits_hash
        assert hash_of("--state", "state.pth", *(["--state-order", order] if order else [])) == expected
    assert hash_of() != hash_of("--state", "state.pth")
    assert run([*generate, "--state", "state.pth"]) == 0
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/save talk.state\n/quit\n"))
    assert run(["chat", "base.pth", "--state", "state.pth", "-n", "4"]) == 0
    assert hash_of("--state", "talk.state") != hash_of("--state", "state.pth")

    for wrong, message in {
        ("--state", "base.pth"): "this file has none",
        ("--state-order", "key-value"): "--state-order goes with --state",
        ("--state", "talk.state", "--state-order", "value-key"): "is a saved conversation",
        ("--state", "state.pth", "--state-order", "vk"): "must be one of value-key, key-value",
    }.items():
        for command in (generate, ["chat", "base.pth"]):
            capsys.readouterr()
            assert run([*command, *wrong]) == 2
            assert message in " ".join(capsys.readouterr().err.split())
