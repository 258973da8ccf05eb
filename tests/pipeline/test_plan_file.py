"""plan.json brings back what pass 1 found, and nothing that belongs to another model, text or option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwkvquant import QuantizeConfig
from rwkvquant.config import CodebookConfig, GridConfig
from rwkvquant.pipeline.measure import Candidate, Measured
from rwkvquant.pipeline.plan_file import NAME, fingerprint, load_plan, save_plan
from rwkvquant.pipeline.settings import Setting, settings_of

GRID, CODEBOOK = Setting("gptq", GridConfig(3)), Setting("gptvq", CodebookConfig(3, 4, 4))
PROXIES = {"paper": {"coarse": 0.1 + 0.2, "fine": [1.5, 1e300], "fine_signed": [-1.0, 2.0]}}
MEASURED = {
    name: Measured(name, 4096, PROXIES, 11 / 3, (Candidate(GRID, 100, 1e-7 / 3, 0.01), Candidate(CODEBOOK, 90, 2e-7, 0.02)))
    for name in ("blocks.0.att.key.weight", "blocks.0.att.w1")
}
CHOSEN = {name: CODEBOOK for name in MEASURED}


def test_round_trip(tmp_path: Path) -> None:
    save_plan(tmp_path, "mark", MEASURED, CHOSEN)
    assert load_plan(tmp_path, "mark") == MEASURED
    assert [path.name for path in tmp_path.iterdir()] == [NAME]
    kept = json.loads((tmp_path / NAME).read_text())["tensors"]["blocks.0.att.w1"]
    assert kept["chosen"]["method"] == "gptvq" and kept["weights"] == 4096


def test_no_plan_or_another_ones_is_none(tmp_path: Path) -> None:
    assert load_plan(tmp_path, "mark") is None
    assert load_plan(tmp_path / "nowhere", "mark") is None
    save_plan(tmp_path, "mark", MEASURED, CHOSEN)
    assert load_plan(tmp_path, "other") is None


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "not JSON": lambda text: "{" + text,
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "7",
    "null": lambda text: "null",
    "another version": lambda text: text.replace('"version": 1', '"version": 2'),
    "another format": lambda text: text.replace("rwkvquant plan", "shopping list"),
    "tensors are no object": lambda text: json.dumps(json.loads(text) | {"tensors": [1]}),
    "a tensor is null": lambda text: json.dumps(json.loads(text) | {"tensors": {"a": None}}),
    "candidates are a number": lambda text: text.replace('"candidates": [', '"candidates": 1, "were": ['),
    "a loss is missing": lambda text: text.replace('"loss"', '"lass"'),
    "a loss is a word": lambda text: text.replace('"loss": 2e-07', '"loss": "much"'),
    "a grid that cannot be": lambda text: text.replace('"bits": 3', '"bits": 33'),
    "an unknown codec": lambda text: text.replace('"codec": "uniform"', '"codec": "ternary"'),
    "an unknown option": lambda text: text.replace('"group_rows"', '"rows_group"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_none(tmp_path: Path, damage: str) -> None:
    save_plan(tmp_path, "mark", MEASURED, CHOSEN)
    text = (tmp_path / NAME).read_text()
    damaged = DAMAGES[damage](text)
    assert damaged != text
    (tmp_path / NAME).write_text(damaged)
    assert load_plan(tmp_path, "mark") is None


def test_bytes_that_are_no_text_are_none(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\xfe\x00")
    assert load_plan(tmp_path, "mark") is None


def mark(source: str = "a", text: str = "b", **options: object) -> str:
    config = QuantizeConfig(**options)  # type: ignore[arg-type]
    return fingerprint(source, text, {"w": settings_of(config)}, config)


def test_fingerprint_covers_what_losses_depend_on_and_no_more() -> None:
    marks = [
        mark(),
        mark(source="c"),
        mark(text="c"),
        mark(bits=6.0),  # other candidates
        mark(method="paper"),
        mark(damping=0.2),
        mark(act_order=False),
        mark(clip_search="weight"),
        mark(seed=1),
    ]
    assert len(set(marks)) == len(marks)
    assert mark() == mark(bits=3.0) == mark(bits=4.5) == mark(choice="algorithm1") == mark(head_bits=4, correction=0.1, vector_bits=16)
