"""A method that a test defines in one place is known everywhere: to Python, the command line, its help and its error messages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from rwkvquant import QuantizeRequest
from rwkvquant.cli.main import run
from rwkvquant.codecs import GridConfig
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.recipes import METHODS, Chooser, Method, Option, Recipe, Said, Setting, recipe_for, register, unregister
from rwkvquant.recipes.options import CLIP_SEARCH_PLAIN, COMMON, shared
from tests.pipeline.toys import TINY, checkpoint_file

GROUP_SIZE = Option("group_size", (96, 160), "Weights that share a scale, an odd number of times 32", 96)


def build(said: Said) -> Recipe:
    """Grids of four bits with an odd group size: one setting for all."""
    candidates = (Setting("rtn", GridConfig(4, said.group_size)),)
    return Recipe(candidates=candidates, chooser=Chooser(), calibrated=False, **shared(said, "rtn"))


@pytest.fixture
def toy() -> Iterator[Method]:
    method = register(Method("toy", "four bits in odd groups", (GROUP_SIZE, CLIP_SEARCH_PLAIN, *COMMON), build))
    yield method
    unregister("toy")


def test_python_knows_it(toy: Method) -> None:
    assert "toy" in METHODS and recipe_for(QuantizeRequest(method="toy")).candidates[0].codec == GridConfig(4, 96)
    with pytest.raises(ConfigError, match="group_size must be 96 or 160 for the method toy; got 64"):
        recipe_for(QuantizeRequest(method="toy", group_size=64))
    with pytest.raises(
        ConfigError, match="group_size is an option of gptq, rtn, awq, quarot, gptaq, qronos and toy; the method paper does not have it"
    ):
        recipe_for(QuantizeRequest(method="paper", group_size=64))
    with pytest.raises(ConfigError, match="there is a method toy already"):
        register(toy)


def test_the_command_line_lists_it_and_runs_it(toy: Method, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "toy: four bits in odd groups" in told and "an odd number of times 32" in told
    source, output = checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 1}), tmp_path / "out.safetensors"
    assert run(["quantize", str(source), "-o", str(output), "--method", "toy", "--group-size", "160"]) == 0
    assert "one setting for every matrix (rtn: 4 bits, group_size 160" in capsys.readouterr().err
    packed = open_packed(output)
    packed.verify()
    assert packed.quantization_config["options"]["method"] == packed.quantization_config["recipe"]["method"] == "toy"
    assert packed.quantization_config["options"]["head_bits"] is None  # what was said
    ran = replace(recipe_for(QuantizeRequest(method="toy", group_size=160)), forward_dtype="float32")  # what "auto" is for a small model
    assert Recipe.from_json(packed.quantization_config["recipe"]) == ran


def test_without_it_nothing_knows_it(capsys: pytest.CaptureFixture[str]) -> None:
    known = "rwkvquant, paper, readme, gptq, rtn, gptvq, kmeans, awq, quarot, gptaq, qronos, lnq, vptq, pcdvq"
    with pytest.raises(ConfigError, match=f"^method must be one of {known}; got toy$"):
        recipe_for(QuantizeRequest(method="toy"))
    assert run(["quantize", "--help"]) == 0
    assert "odd groups" not in capsys.readouterr().out


def test_the_words_of_other_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 1})
    words = ["quantize", str(source), "--method", "rtn", "--bits", "4", "--dry-run", "--json"]
    assert run([*words, "--group-size", "64"]) == 0
    told = capsys.readouterr()
    assert "note: one setting for every matrix (rtn: 4 bits, group_size 64" in told.err and "stored bits per weight" in told.err
    assert '"uniform4' in told.out and '"uniform3' not in told.out
    assert run([*words[:5], "3.5", *words[6:], "--group-size", "64"]) == 2
    assert capsys.readouterr().err.startswith("rwkvquant: group_size goes with whole bits")


def test_phases_have_the_steps_that_they_announce(tmp_path: Path) -> None:
    from rwkvquant.pipeline.quantize import plan_only
    from tests.pipeline.toys import Notes, calibration_text, few_of

    source, notes = checkpoint_file(tmp_path, "rwkv7", **TINY | {"layers": 2}), Notes()
    plan_only(source, few_of(calibration=calibration_text(tmp_path, rows=4, length=32)), notes)
    plan_only(source, few_of(method="rtn"), notes)
    assert notes.promised == notes.steps and len(notes.steps) == 3
