"""The page on Python has every public name, every argument and every field, and its examples run in their order."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import rwkvquant
from tests.docs.commands import ROOT, python_blocks
from tests.helpers import random_state_dict, write_pth

PAGE = (ROOT / "docs/python.md").read_text()
FUNCTIONS = [name for name in rwkvquant.__all__ if inspect.isfunction(getattr(rwkvquant, name))]
CLASSES = [name for name in rwkvquant.__all__ if inspect.isclass(getattr(rwkvquant, name))]
TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 60


def code() -> str:
    return " ".join(re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", PAGE, flags=re.DOTALL | re.MULTILINE)))


def test_every_public_name_is_on_the_page() -> None:
    assert [name for name in rwkvquant.__all__ if not re.search(rf"\b{name}\b", code())] == []


def signature_on_page(name: str) -> list[str]:
    """The names of the arguments in `name(...)` at the beginning of a line. A "..." at the end: the page lists the rest elsewhere."""
    line = re.search(rf"^`{name}\((.*?)\)`", PAGE, re.MULTILINE)
    assert line, f"the page has no signature of {name}"
    return [part.split("=")[0].strip("* ") for part in re.split(r", (?![^(]*\))", line[1]) if part != "*"]


@pytest.mark.parametrize("name", [*FUNCTIONS, "Chat", "SamplingConfig", "StatePool", "CalibrationConfig"])
def test_signatures_are_the_real_ones(name: str) -> None:
    shown, real = signature_on_page(name), [*inspect.signature(getattr(rwkvquant, name)).parameters]
    assert shown == real or (shown[-1] == "..." and shown[:-1] == real[: len(shown) - 1])


@pytest.mark.parametrize("name", ["stream", "generate", "forward", "forward_batch", "slots", "tuned_state"])
def test_signatures_of_a_models_methods_are_the_real_ones(name: str) -> None:
    shown = re.search(rf"^\| `{name}\((.*?)\)` \|", PAGE, re.MULTILINE)
    assert shown
    names = [part.split("=")[0].strip("* ") for part in re.split(r", (?![^(]*\))", shown[1])]
    assert ["self", *names] == [*inspect.signature(getattr(rwkvquant.Model, name)).parameters]


@pytest.mark.parametrize("name", ["classify", "segment", "detect", "logits", "features", "name_of"])
def test_signatures_of_a_vision_models_methods_are_the_real_ones(name: str) -> None:
    shown = re.search(rf"^\| `{name}\((.*?)\)` \|", PAGE, re.MULTILINE)
    assert shown
    names = [part.split("=")[0] for part in shown[1].split(", ")]
    assert ["self", *names] == [*inspect.signature(getattr(rwkvquant.VisionModel, name)).parameters]


@pytest.mark.parametrize("name", [name for name in CLASSES if dataclasses.is_dataclass(getattr(rwkvquant, name))])
def test_every_field_is_on_the_page(name: str) -> None:
    fields = [each.name for each in dataclasses.fields(getattr(rwkvquant, name))]
    assert [field for field in fields if not re.search(rf"\b{field}\b", code())] == []


KINDS = [
    rwkvquant.Model,
    rwkvquant.VisionModel,
    rwkvquant.Chat,
    rwkvquant.State,
    rwkvquant.PackedState,
    rwkvquant.Slots,
    rwkvquant.StatePool,
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_public_member_is_on_the_page(kind: type) -> None:
    members = [name for name in dir(kind) if not name.startswith("_")]
    assert [name for name in members if not re.search(rf"\b{name}\b", code())] == []


def test_examples_run_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64, head_size=16))
    Path("some.txt").write_text(TEXT)
    write_pth(tmp_path / "state.pth", {"blocks.0.att.time_state": torch.zeros(4, 16, 16)})
    names: dict[str, Any] = {}
    for block in python_blocks(PAGE):
        exec(block, names)
    assert "a checkpoint is a .pth" in capsys.readouterr().out


def test_the_checks_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    assert signature_on_page("load") != [*inspect.signature(rwkvquant.verify).parameters]
    assert not re.search(r"\bquantise_all\b", code())
