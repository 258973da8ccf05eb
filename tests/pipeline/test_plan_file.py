"""plan.json brings back the results of pass 1, and never those of another model, text or option."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rwkvquant import CalibrationConfig
from rwkvquant.codecs import CodebookConfig, GridConfig
from rwkvquant.pipeline.fingerprint import of_pass_1
from rwkvquant.pipeline.plan_file import Candidate, Measured, from_json, to_json
from rwkvquant.recipes import Setting
from rwkvquant.transforms import NONE, Applied
from rwkvquant.transforms.column_power import COLUMN_POWER
from rwkvquant.transforms.hadamard import HADAMARD
from tests.pipeline.toys import recipe_of

GRID, CODEBOOK = Setting("gptq", GridConfig(3)), Setting("gptvq", CodebookConfig(3, 4, 4))
PROXIES = {"paper": {"coarse": 0.1 + 0.2, "fine": [1.5, 1e300], "fine_signed": [-1.0, 2.0]}}
MEASURED = {
    name: Measured(name, 4096, PROXIES, 11 / 3, (Candidate(GRID, 100, 1e-7 / 3, 0.01), Candidate(CODEBOOK, 90, 2e-7, 0.02)))
    for name in ("blocks.0.att.key.weight", "blocks.0.att.w1")
}
CHOSEN = {name: CODEBOOK for name in MEASURED}


def test_round_trip() -> None:
    kept = json.loads(json.dumps(to_json(MEASURED, CHOSEN)))
    assert from_json(kept) == from_json(json.loads(json.dumps(to_json(MEASURED)))) == MEASURED
    assert kept["blocks.0.att.w1"]["chosen"]["method"] == "gptvq" and kept["blocks.0.att.w1"]["weights"] == 4096


def test_what_a_selector_measured_is_kept() -> None:
    candidate = Candidate(GRID, 100, 1e-7, 0.01, mse=1 / 3, kl=-1e-9)
    measured = {"w": Measured("w", 4096, {}, 1.0, (candidate, Candidate(CODEBOOK, 90, 2e-7, 0.02, kl=5e-9)))}
    assert from_json(json.loads(json.dumps(to_json(measured)))) == measured


DAMAGES = {
    "a list": lambda text: "[1, 2]",
    "a number": lambda text: "7",
    "null": lambda text: "null",
    "a tensor is null": lambda text: '{"a": null}',
    "candidates are a number": lambda text: text.replace('"candidates": [', '"candidates": 1, "were": ['),
    "a loss is missing": lambda text: text.replace('"loss"', '"lass"'),
    "a loss is a word": lambda text: text.replace('"loss": 2e-07', '"loss": "much"'),
    "a grid that cannot be": lambda text: text.replace('"bits": 3', '"bits": 33'),
    "an unknown codec": lambda text: text.replace('"codec": "uniform"', '"codec": "ternary"'),
    "an unknown option": lambda text: text.replace('"group_rows"', '"rows_group"'),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_plan_is_none(damage: str) -> None:
    text = json.dumps(to_json(MEASURED, CHOSEN))
    damaged = DAMAGES[damage](text)
    assert damaged != text
    assert from_json(json.loads(damaged)) is None


def mark(source: str = "a", text: str = "b", transform: Applied = NONE, **options: object) -> str:
    recipe = recipe_of(**options)
    return json.dumps(of_pass_1({"checkpoint": source}, text, {"w": recipe.candidates}, {"w": transform}, recipe))


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
        mark(calibration=CalibrationConfig(batch=3)),
        mark(transform=HADAMARD.make(64, 0)),
        mark(transform=HADAMARD.make(64, 1)),
        mark(transform=COLUMN_POWER.of(np.eye(64, dtype=np.int32)[3])),
        mark(transform=COLUMN_POWER.of(np.eye(64, dtype=np.int32)[4])),
    ]
    assert len(set(marks)) == len(marks)
    assert mark() == mark(bits=3.0) == mark(bits=4.5) == mark(choice="algorithm1") == mark(head_bits=4, correction=0.1, vector_bits=16)
