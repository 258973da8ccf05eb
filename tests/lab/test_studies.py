"""Studies measure what they say on weights whose answer is known; and their cells go through `lab run`, `lab tables` and claims."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.architectures import Dims
from rwkvquant.bench import measure, shapes
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.formats.container import open_packed
from rwkvquant.lab.claims import claims_text
from rwkvquant.lab.rows import table_rows
from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import LabModel, Replacements, read_spec
from rwkvquant.lab.store import Store
from rwkvquant.lab.studies import STUDIES, speed, study_of
from rwkvquant.lab.studies.clusters import cluster_loss, excess_kurtosis
from rwkvquant.lab.studies.gaps import gaussian_coarse
from rwkvquant.lab.studies.matrices import matrices, mean, ratio
from rwkvquant.lab.studies.study import Value
from rwkvquant.lab.studies.tables import study_lines
from rwkvquant.selection.proxy import in_bfloat16, proxies
from tests.helpers import random_state_dict, write_pth
from tests.llama import write_llama

ROOT = Path(__file__).parents[2]
STUDY_SPECS = ["table1", "figure1", "figure5"]
TEXT = "A text to look at activations with. " * 30
SMALL = Dims(2, 320, 640, 256, 5, 64, {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 64})
SPEC = "models: {one: one.pth, other: other.pth}\nreference: other\nrequests: {weights: {study: clusters}}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for seed, name in enumerate(("one", "other")):
        write_pth(tmp_path / f"{name}.pth", random_state_dict("rwkv7", layers=1, width=64, seed=seed))
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_cluster_losses_are_those_of_known_distributions() -> None:
    even = np.linspace(-1, 1, 1 << 16, dtype=np.float32).reshape(256, 256)
    assert [cluster_loss(even, k) for k in (8, 16)] == pytest.approx([100 / 64, 100 / 256], rel=2e-3)  # 1 / k^2 of the variance
    assert excess_kurtosis(even) == pytest.approx(-1.2, abs=1e-3)
    eight = np.repeat(np.arange(8, dtype=np.float32), 32).reshape(16, 16)
    assert cluster_loss(eight, 8) == 0
    assert cluster_loss(np.ones((4, 4), np.float32), 8) == excess_kurtosis(np.ones((4, 4), np.float32)) == 0


def test_intervals_are_of_draws_of_matrices() -> None:
    values, others = [1.0, 2.0, 4.0], [3.0, 3.0, 3.0]
    assert mean(values).value == pytest.approx(7 / 3) and mean(values).interval == (1.0, 4.0)
    assert ratio(values, others).value == pytest.approx(7 / 9) and mean([2.0]).interval is None
    low, high = ratio(values, others).interval or (0, 0)
    assert (low, high) == pytest.approx((1 / 3, 4 / 3))


def test_a_converted_checkpoint_has_the_gaps_of_its_first_type(folder: Path) -> None:
    """bfloat16 weights in a checkpoint of float32: with float32's steps P_c would be far above that of a Gaussian."""
    W = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)) / 16
    state = random_state_dict("rwkv7", layers=1, width=256)
    write_pth(folder / "one.pth", state | {"blocks.0.att.key.weight": W.bfloat16().float()})
    Path("spec.yaml").write_text("models: {one: one.pth}\nrequests: {weights: {study: gaps}}\n")
    run_spec(read_spec("spec.yaml"), "work")
    found = {each["matrix"]: each for each in only_cell("work")["results"]["matrices"]}
    assert abs(found["blocks.0.att.key.weight"]["above_gaussian"]) < 0.5
    assert proxies(in_bfloat16(W.numpy()), "dithered", "float32").coarse > gaussian_coarse(W.numel()) + 1


def test_shares_by_thresholds_are_counts_of_matrices(folder: Path) -> None:
    Path("spec.yaml").write_text(
        "models: {one: one.pth}\nrequests: {as saved: {study: thresholds}, b: {study: thresholds, dtype: bfloat16}}\n"
    )
    run_spec(read_spec("spec.yaml"), "work")
    lines = {line.label: line.numbers for line in lines_of("work")}
    assert list(lines) == [f"one, {row}, {reading}" for row in ("as saved", "b") for reading in ("paper", "unique", "dithered")]
    model = LabModel("one", "one.pth")
    for row, change in (("as saved", lambda W: W), ("b", in_bfloat16)):
        measured = [(proxies(change(matrix.W), "unique"), matrix.W.size) for matrix in matrices(model)]
        below = [size for each, size in measured if each.coarse < 1.7781 and each.fine() < 135.5616]
        numbers = lines[f"one, {row}, unique"]
        assert numbers["SQ by 1.7781 and 135.562, % of matrices"] == pytest.approx(100 * len(below) / len(measured))
        assert numbers["SQ by 1.7781 and 135.562, % of weights"] == pytest.approx(100 * sum(below) / sum(size for _, size in measured))
        assert numbers["matrices"] == len(measured) and any(not matrix.projection for matrix in matrices(model))
    assert lines["one, as saved, unique"] != lines["one, b, unique"]


@pytest.mark.parametrize("name", STUDY_SPECS)
def test_specifications_of_the_repository_make_tables_and_figures(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With small models in place of theirs, and a transformer under the name that they have for it."""
    llama = write_llama(folder / "llama")
    arguments = ["lab", "run", str(ROOT / f"lab/{name}.yaml"), "--work-dir", "work"]
    assert run([*arguments, "--model", "one=one.pth", "--model", f"llama-8m={llama}"]) == 0
    cells = {path.name: path.read_bytes() for path in Path("work/cells").iterdir()}
    assert run([*arguments, "--model", "renamed=one.pth", "--model", f"llama-8m={llama}"]) == 0
    assert "0 are done now" in capsys.readouterr().out and {path.name: path.read_bytes() for path in Path("work/cells").iterdir()} == cells
    assert run(["lab", "tables", "work", "--json"]) == 0
    files = [Path(file) for file in json.loads(capsys.readouterr().out)["files"]]
    assert [file.name for file in files] == [f"{name}.md", f"{name}.csv", f"{name}.svg"]
    text, drawn = files[0].read_text(), files[2].read_bytes()
    assert text.startswith(f"# {read_spec(ROOT / f'lab/{name}.yaml', Replacements((LabModel('llama-8m', 'x'),))).title}\n")
    assert "| renamed" in text and "| llama-8m" in text and b"<svg" in drawn
    lines = {line.label: line.numbers for line in lines_of("work")}
    for row in csv.DictReader(files[1].open()):
        for column, value in lines[row["label"]].items():
            number = getattr(value, "value", value)
            assert number is None or row[column] == str(number)
    assert run(["lab", "tables", "work"]) == 0 and files[2].read_bytes() == drawn


def test_another_model_is_another_question_and_a_failed_cell_is_in_the_table(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_spec(read_spec("spec.yaml"), "work")
    write_pth(folder / "one.pth", random_state_dict("rwkv7", layers=1, width=64, seed=3))
    monkeypatch.setattr(STUDIES["clusters"], "results", lambda *_: 1 / 0)
    result = run_spec(read_spec("spec.yaml"), "work")
    assert result.kept == 1 and len(result.failed) == 1
    assert run(["lab", "tables", "work"]) == 0
    text = Path("work/tables/spec.md").read_text()
    assert "- one, weights: ZeroDivisionError" in text and "1 of 2 cells are done, 1 failed." in text and "| other |" in text


def test_claims_are_about_columns_of_a_study(folder: Path) -> None:
    run_spec(read_spec("spec.yaml"), "work")
    numbers = {line.label: line.numbers for line in lines_of("work")}
    value = numbers["one"]["8 clusters, over other"]
    assert value is not None and numbers["other"]["8 clusters, over other"] is None

    def lines(claim: str) -> list[str]:
        Path("claims.yaml").write_text(f"title: T\nclaims:\n  - {{claim: C, {claim}, unit: times}}\n")
        return claims_text("work", "claims.yaml").splitlines()[4:]

    (line,) = lines('number: "spec/8 clusters, over other", above: 0.1')
    assert line.startswith(f"| C |  | one | {value.value:.4g} [") and line.endswith("times | holds |")
    first, second = lines("number: spec/projections, below: 3")
    assert first == f"| C |  | one | {numbers['one']['projections']} times | does not hold |" and second.startswith("|  |  | other |")
    assert lines("number: spec/projections, of: [other], below: 3") == [second.replace("|  |", "| C |", 1)]
    for nothing in ("number: spec/no such column, below: 3", "number: nowhere/projections, below: 3"):
        assert lines(nothing) == ["| C |  |  |  | not measured |"]
    for mistake in (
        "number: spec, below: 3",
        "number: spec/x",
        "number: spec/x, of: one, below: 3",
        "number: a/b, rows: [a/b, c/d], below: 1",
    ):
        with pytest.raises(ConfigError, match=r"claims\.yaml"):
            lines(mistake)


def test_a_report_leaves_studies_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_spec(read_spec("spec.yaml"), "work")
    assert run(["report", "work", "-o", "page.html"]) == 2
    assert "neither a packed file nor cells" in capsys.readouterr().err


def test_an_activation_is_what_the_command_shows(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever pattern names it. Another text is another question; so is another tensor."""
    Path("some.txt").write_text(TEXT)
    text = "calibration: {path: some.txt, rows: 3, length: 40}"
    Path("spec.yaml").write_text(f"models: {{one: one.pth}}\n{text}\nrequests: {{shift: {{study: activation, tensor: ffn.x_k}}}}\n")
    run_spec(read_spec("spec.yaml"), "work")
    assert run(["activations", "one.pth", "blocks.0.ffn.x_k", "--text", "some.txt", "--rows", "3", "--length", "40", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = only_cell("work")["results"]
    assert {**told, "file": None} == {**found, "file": None} and found["tensor"] == "blocks.0.ffn.x_k"
    (line,) = lines_of("work")
    edges, counts = np.array(told["histogram"]["edges"]), np.array(told["histogram"]["counts"])
    far = counts[(edges[:-1] >= told["mean"] + 3.999 * told["std"]) | (edges[1:] <= told["mean"] - 3.999 * told["std"])].sum()
    assert line.numbers["beyond 4 deviations, %"] == pytest.approx(100 * far / told["values"])
    assert line.numbers["clip, high"] == pytest.approx((told["clip"]["high"] - told["mean"]) / told["std"])
    assert run_spec(read_spec("spec.yaml"), "work").kept == 1
    Path("some.txt").write_text(TEXT + "And more.")
    assert run_spec(read_spec("spec.yaml"), "work").done == 1  # it is another question
    Path("spec.yaml").write_text("models: {one: one.pth}\nrequests: {shift: {study: activation, tensor: nothing}}\n")
    with pytest.raises(ConfigError, match="no name of a matrix or element-wise vector matches 'nothing'"):
        run_spec(read_spec("spec.yaml"), "work")


@pytest.fixture
def small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.RELEASED, "small", ("rwkv7", SMALL))
    monkeypatch.setattr(measure, "SECONDS", 0.01)


@pytest.mark.usefixtures("small_shape")
def test_speed_is_of_both_files_in_turn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rwkvquant._native", reason="needs the native module")
    Path("spec.yaml").write_text(
        "models: {a: small, b: small}\nreference: a\nrequests: {default: {study: speed, rounds: 3, bits: 4, threads: 1}}\n"
    )
    assert run_spec(read_spec("spec.yaml"), "work").done == 1
    cell = only_cell("work")
    assert {"shape": "small", "threads": 1, "cpu": cell["conditions"]["cpu"]}.items() <= cell["question"].items()
    files = cell["results"]["files"]
    ratios = [ours / theirs for ours, theirs in zip(files["default"]["decode_tok_s"], files["dense"]["decode_tok_s"], strict=True)]
    line, other = lines_of("work")
    least, middle, most = sorted(ratios)
    assert line.numbers["speed-up"] == Value(middle, (least, most)) and line.numbers["speed-up, over a"] is None
    assert other.numbers["speed-up, over a"] == Value(1, (least / most, most / least))
    write_random_model("x.safetensors", "rwkv7", SMALL, bits=4)
    packed = open_packed(Path("x.safetensors"))
    assert (line.numbers["bytes of a token"], line.numbers["bits"]) == (measure.bytes_per_token(packed), packed.ledger().bits_per_weight)
    assert files["dense"]["bits_per_weight"] == 16 and files["default"]["file_bytes"] == packed.file_bytes
    assert not list(Path("work/files").iterdir())
    assert run(["lab", "tables", "work"]) == 0 and b"<svg" in Path("work/tables/spec.svg").read_bytes()
    monkeypatch.setattr(speed, "cpu_name", lambda: "another CPU")
    assert run_spec(read_spec("spec.yaml"), "work").done == 1  # it is another question


@pytest.mark.usefixtures("small_shape")
def test_a_stopped_measurement_leaves_no_cell_and_no_file(folder: Path) -> None:
    pytest.importorskip("rwkvquant._native", reason="needs the native module")
    Path("spec.yaml").write_text("models: {a: small}\nrequests: {default: {study: speed, rounds: 3, threads: 1}}\n")
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > 2

    with pytest.raises(StoppedError, match="stopped before round 2 of 3"):
        run_spec(read_spec("spec.yaml"), "work", stop=stop)
    assert not list(Path("work").glob("cells/*")) and not list(Path("work").glob("files/*"))


def test_shapes_that_cannot_be_measured_are_refused_before_the_first_cell(folder: Path) -> None:
    for shape, words in (("x070-9b", "released shapes are x070-0.1b"), ("vrwkv-t", "a shape of a model for images")):
        Path("spec.yaml").write_text(f"models: {{a: {shape}}}\nrequests: {{default: {{study: speed}}}}\n")
        with pytest.raises(ConfigError, match=words):
            run_spec(read_spec("spec.yaml"), "work")
    assert read_spec("spec.yaml", Replacements((LabModel("b", "x070-0.1b"),))).models == (LabModel("b", "x070-0.1b"),)


def test_every_study_has_what_the_laboratory_needs(folder: Path) -> None:
    """A name, a sentence, and a question that is JSON and names no path."""
    options = {"activation": {"tensor": "blocks.0.att.x_k"}}
    for name, study in STUDIES.items():
        model = LabModel("one", "x070-0.1b" if study.of_shapes else "one.pth")
        question = study_of({"study": name, **options.get(name, {})}).question(model)
        assert name == study.name == question["kind"] and study.about.endswith(".")
        assert "one.pth" not in json.dumps(question)


def only_cell(work: str) -> dict[str, Any]:
    (path,) = Path(work).glob("cells/*.json")
    return json.loads(path.read_text())


def lines_of(work: str) -> list[Any]:
    store = Store(Path(work))
    ((_, spec),) = store.specs().items()
    return study_lines(spec, table_rows(store, spec))
