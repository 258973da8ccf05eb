"""Studies measure what they say on weights whose answer is known; and their cells go through `lab run`, `lab tables` and claims."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.lab.claims import claims_text
from rwkvquant.lab.rows import table_rows
from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import LabModel, Replacements, read_spec
from rwkvquant.lab.store import Store
from rwkvquant.lab.studies import STUDIES, study_of
from rwkvquant.lab.studies.clusters import cluster_loss, excess_kurtosis
from rwkvquant.lab.studies.gaps import gaussian_coarse
from rwkvquant.lab.studies.matrices import in_bfloat16, matrices, mean, ratio, saved_in
from rwkvquant.lab.studies.tables import study_lines
from rwkvquant.selection.proxy import proxies
from tests.helpers import random_state_dict, write_pth
from tests.llama import write_llama

ROOT = Path(__file__).parents[2]
STUDY_SPECS = ["table1", "figure1", "figure5"]
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


def test_bfloat16_is_that_of_torch_and_is_found_in_other_types() -> None:
    W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    rounded = torch.from_numpy(W).bfloat16().float().numpy()
    assert np.array_equal(in_bfloat16(W), rounded)
    assert saved_in(W.astype(np.float16).astype(np.float32), "float16") == "float16"
    assert saved_in(rounded, "float16") == "bfloat16"


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


def test_every_study_has_what_the_laboratory_needs(folder: Path) -> None:
    """A name, a sentence, and a question that is JSON and names no path."""
    for name, study in STUDIES.items():
        question = study_of({"study": name}).question(LabModel("one", "one.pth"))
        assert name == study.name == question["kind"] and study.about.endswith(".")
        assert "one.pth" not in json.dumps(question)


def only_cell(work: str) -> dict[str, Any]:
    (path,) = Path(work).glob("cells/*.json")
    return json.loads(path.read_text())


def lines_of(work: str) -> list[Any]:
    store = Store(Path(work))
    ((_, spec),) = store.specs().items()
    return study_lines(spec, table_rows(store, spec))
