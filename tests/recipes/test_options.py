"""Any pair of options with any method gives a recipe that can run, or one sentence; never a traceback."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from rwkvquant import CalibrationConfig, QuantizeRequest, RwkvQuantError
from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.pipeline.plan import make_plan, planned_ledger
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.settings import allowed_settings, quantized_shapes
from rwkvquant.recipes import METHODS, Recipe, recipe_for
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, few, opened

NAN, INF = float("nan"), float("inf")
VALUES: dict[str, list[Any]] = {
    "bits": [3, 3.275, 3.3, 4.0, 6.5, 0, -1, 17, 1e-300, NAN, INF, "3", True],
    "code_bits": [2, 3, 4, 8, 1, 9, 3.0, "3", True],
    "style": ["tuned", "paper", "", "Paper", 1],
    "choice": ["error", "uniform", "codebook", "algorithm1", "fixed", "incoherence", "share", "best", 0],
    "proxy": ["paper", "unique", "dithered", "mean", False],
    "group_size": [32, 64, 128, 48, 0, -64, 64.0],
    "symmetric": [True, False, 0, "yes"],
    "scale_bits": [8, 16, 4, 8.0],
    "codebook_size": [64, 128, 512, 100, "128"],
    "codebook_rank": [0, 3, 8, 9, -1, 1.5],
    "codebook_dim": [1, 2, 3, True],
    "clip_search": ["none", "weight", "hessian", "minmax", 0],
    "act_order": [True, False, 1, "no"],
    "damping": [0, 0.05, 10, -0.1, 11, NAN, "0.05"],
    "correction": [0, 0.5, 1, 1.01, -0.5, NAN, True],
    "fall_back": [True, False, 1],
    "head_bits": [2, 6, 8, 16, 1, 9, 6.0],
    "emb_bits": [2, 8, 16, 0, 17, "8"],
    "vector_bits": [3, 8, 16, 4, 3.0],
    "vector_codebook": ["mean_square", "paper", "authors", "median", 3],
    "own_options": [(), ("nothing=1",), "damping=0.1", ["damping"], (3,), "selector=mse", "sq_share=0.25", "order=3", "order=7"],
    "tensor_bits": [("att.value=8",), ("*=3",), "att.value=3", ["w1=2", "*=4"], ("att.value",), ("=3",), ("nothing=3",), (3,), 8],
    "calibration": [CalibrationConfig(rows=3), "text.txt", 128, None, {"rows": 3}],
    "tokenizer": ["world", "bytes", "", 5],
    "adapter": ["lora.pth,alpha=32", "", 5],
    "forward_dtype": ["auto", "float32", "bfloat16", "float16", 16],
    "device": ["cpu", "cuda", "cuda:1", "tpu", None],
    "seed": [0, 7, -1, 1.5, "0"],
}


def outcome(method: str, said: dict[str, Any]) -> Recipe | str:
    try:
        return recipe_for(QuantizeRequest(**{"method": method, **said}))
    except RwkvQuantError as error:
        return str(error)


def one_sentence(told: str) -> bool:
    return bool(told) and "\n" not in told and len(told) < 400 and "Traceback" not in told


def test_every_option_is_tried() -> None:
    assert {*VALUES, "method"} == {field.name for field in dataclasses.fields(QuantizeRequest)}


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return open_checkpoint(checkpoint_file(tmp_path_factory.mktemp("tiny"), "rwkv7", **TINY | {"layers": 1}))


@pytest.mark.long
@pytest.mark.parametrize("method", [*METHODS, "awr", ""])
def test_any_two_options_make_a_recipe_or_one_sentence(method: str, shapes: Any) -> None:
    names = list(quantized_shapes(shapes))
    recipes: set[str] = set()
    stored: set[str] = set()
    refused = 0
    for (one, ones), (other, others) in itertools.combinations(VALUES.items(), 2):
        for a, b in itertools.product(ones, others):
            found = outcome(method, {one: a, other: b})
            if isinstance(found, str):
                assert one_sentence(found), (one, a, other, b, found)
                refused += 1
                continue
            kept = json.dumps(found.to_json())
            if kept not in recipes:
                recipes.add(kept)
                assert Recipe.from_json(json.loads(kept)) == found
                how = json.dumps({name: value for name, value in json.loads(kept).items() if name not in NOT_STORED})
                if how not in stored:
                    stored.add(how)
                    works_on(found, names, shapes)
    assert refused > 1000 and (len(recipes) > 100) == (method in METHODS)


NOT_STORED = ("calibration", "seed", "tokenizer", "device", "correction", "forward_dtype")  # they change values, and never what is stored


def works_on(recipe: Recipe, names: list[str], checkpoint: Any) -> None:
    """Its settings can store every matrix of a model, or the patterns of --tensor-bits are refused."""
    try:
        settings = allowed_settings(recipe, names, checkpoint.architecture)
    except RwkvQuantError as error:
        assert recipe.tensor_bits and one_sentence(str(error))
        return
    chosen = {name: found[-1] for name, found in settings.items()}
    plan = make_plan(checkpoint, recipe, chosen)
    assert planned_ledger(plan, 0).file_bytes > 0
    assert {tensor.name for tensor in plan if tensor.spec.role in QUANTIZED_ROLES} == set(names)


@pytest.mark.long
def test_recipes_drawn_at_random_run(tmp_path: Path) -> None:
    """Three random options at a time, with valid values, through the whole job."""
    draw, text = random.Random(3), calibration_text(tmp_path, rows=4, length=32)
    source = checkpoint_file(tmp_path, "rwkv7", layers=1, width=32, head_size=8, ranks=TINY["ranks"])
    ran, refused = set(), 0
    names = [name for name in VALUES if name not in ("calibration", "tokenizer", "adapter", "device", "seed", "bits")]
    while len(ran) < len(METHODS):
        method = draw.choice([name for name in METHODS if all(name != done for done, _ in ran)])
        said = {name: draw.choice(VALUES[name][:3]) for name in draw.sample(names, 3)}
        found = outcome(method, said | {"calibration": text})
        if isinstance(found, str):
            refused += 1
            continue
        output = tmp_path / f"{len(ran)}.safetensors"
        try:
            quantize(source, output, few(found))
            opened(output)
        except RwkvQuantError as error:
            assert one_sentence(str(error)), said
        ran.add((method, json.dumps(said, sort_keys=True)))
    assert refused > 10
