"""The laboratory measures what `compare` measures, once for each cell, whatever happens in between."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkvquant
import rwkvquant.pipeline.quantize as pipeline
from rwkvquant import QuantizeRequest
from rwkvquant.cli.main import run
from rwkvquant.errors import RwkvQuantError, StoppedError
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.lab.measure import shared_runs
from rwkvquant.lab.rows import table_rows
from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import read_spec
from rwkvquant.lab.store import Store
from rwkvquant.lab.tables import write_tables
from tests.helpers import killed_at, random_state_dict, write_pth
from tests.lab.small import SPEC, TEXT, cells, lasting

FILE = Path(__file__).parents[1] / "data"


def test_a_cell_has_the_numbers_of_quantize_and_compare(folder: Path) -> None:
    result = run_spec(read_spec("spec.yaml"), "work")
    assert (result.cells, result.kept, result.done, result.failed) == (3, 0, 3, ())
    cell = cells(Path("work"))["small rtn 4.5 s0"]
    calibration = rwkvquant.CalibrationConfig("some.txt", 2, 64)
    quantized = rwkvquant.quantize("model.pth", "x.safetensors", QuantizeRequest(method="rtn", bits=4.5, calibration=calibration))
    compared = rwkvquant.compare("model.pth", "x.safetensors", "some.txt", context=128).to_json()
    found = cell["results"]
    assert (found["bits_per_weight"], found["file_bytes"]) == (quantized.bits_per_weight, quantized.file_bytes)
    assert {name: found[name] for name in compared if name in found} == {name: compared[name] for name in compared if name in found}
    assert {"kl_mean", "kl_ci95", "kl_p99", "top1_agreement", "ppl_quantized", "windows_sha256"} <= compared.keys() & found.keys()
    assert np.isclose(sum(found["each_window"]["kl"]) / sum(found["each_window"]["tokens"]), found["kl_mean"])
    assert found["shared_16_grams"] == 1.0  # it is calibrated on the text that is measured
    assert found["calibration_rows"] is None  # rtn reads no text
    assert cells(Path("work"))["small gptq s0"]["results"]["calibration_rows"] == 2
    assert found["layouts"] and sum(found["layouts"].values()) == pytest.approx(1)
    assert {"checkpoint", "tokenizer", "text", "options"} <= cell["question"].keys() and "path" not in cell["question"]["options"][
        "calibration"
    ]
    assert {"rwkvquant", "code", "torch", "numpy", "cpu", "threads"} <= cell["conditions"].keys()
    assert len(list(Path("work/files").glob("*.safetensors"))) == 3


def test_finished_cells_are_never_made_again(done: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is a row that another specification, or another name, also has. A row with another option is made."""
    before = {path.name: path.read_bytes() for path in Path("work/cells").iterdir()}
    monkeypatch.setattr(pipeline, "quantize", None)
    assert run_spec(read_spec("spec.yaml"), "work").kept == 3
    Path("other.yaml").write_text(SPEC.replace("gptq: {", "feedback: {"))
    assert run_spec(read_spec("other.yaml"), "work").kept == 3
    assert {path.name: path.read_bytes() for path in Path("work/cells").iterdir()} == before
    Path("other.yaml").write_text(SPEC.replace("method: gptq", "method: gptq, damping: 0.2"))
    assert len(run_spec(read_spec("other.yaml"), "work").failed) == 1


def test_another_text_or_model_is_another_question(done: Path) -> None:
    Path("some.txt").write_text(TEXT + "And more.")
    assert run_spec(read_spec("spec.yaml"), "work").kept == 0
    write_pth(done / "model.pth", random_state_dict("rwkv7", layers=1, width=64, seed=1))
    assert run_spec(read_spec("spec.yaml"), "work").kept == 0


@pytest.mark.long
def test_a_run_that_is_killed_goes_on_and_ends_with_the_same_cells(folder: Path, prepared: Path) -> None:
    spec = read_spec("spec.yaml")
    calls = killed_at(0, lambda: run_spec(spec, "counted"))
    assert calls is not None
    for share in (0.3, 0.55, 0.8, 0.97):
        assert killed_at(int(calls * share), lambda: run_spec(spec, "work")) is None or share > 0.3  # later runs have less to do
    run_spec(spec, "work")
    assert {name: lasting(cell) for name, cell in cells(Path("work")).items()} == {
        name: lasting(cell) for name, cell in cells(prepared).items()
    }


def test_a_file_that_is_made_is_only_measured(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = divergence.compare_many
    monkeypatch.setattr(divergence, "compare_many", None)
    assert len(run_spec(read_spec("spec.yaml"), "work").failed) == 3  # quantized, then failed
    monkeypatch.setattr(divergence, "compare_many", measure)

    def stopped(*args: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(divergence, "compare_many", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_spec(read_spec("spec.yaml"), "work")
    assert [cell["state"] for cell in cells(Path("work")).values()].count("quantized") == 1
    monkeypatch.setattr(divergence, "compare_many", measure)
    made: list[str] = []
    quantize = pipeline.quantize
    monkeypatch.setattr(pipeline, "quantize", lambda *args, **named: made.append(str(args[1])) or quantize(*args, **named))
    assert run_spec(read_spec("spec.yaml"), "work").done == 3
    assert len(made) == 2


def test_a_cell_that_fails_is_recorded_and_the_others_go_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the command ends with 2. Failed cells are tried again."""
    bad = SPEC + "  low: {method: gptq, bits: 0.5}\n  missing: {file: '{model}.gguf'}\n"
    Path("spec.yaml").write_text(bad.replace("{method: rtn}", "{method: rtn, bits: 4.5}"))
    assert run(["lab", "run", "spec.yaml", "--work-dir", "work"]) == 2
    said = capsys.readouterr()
    assert "2 of 4 cells failed; the first: small low s0: bits 0.5 cannot be reached" in said.err
    assert "4 cells: 0 were done before, 2 are done now, 2 failed" in said.out
    found = cells(Path("work"))
    assert [found[name]["state"] for name in ("small rtn s0", "small low s0", "small missing s0")] == ["done", "failed", "failed"]
    assert "no such file" in found["small missing s0"]["error"]
    rwkvquant.export(f"work/files/{found['small rtn s0']['key']}.safetensors", "small.gguf", layout="gguf")
    assert run(["lab", "run", "spec.yaml", "--work-dir", "work", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["kept"] == 2
    found = cells(Path("work"))
    assert found["small missing s0"]["state"] == "done"
    assert found["small missing s0"]["results"]["file_bytes"] == Path("small.gguf").stat().st_size
    assert found["small missing s0"]["results"]["kl_mean"] == pytest.approx(found["small rtn s0"]["results"]["kl_mean"], rel=0.02)


def test_an_error_of_ours_is_recorded_with_its_place(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "quantize", lambda *args, **named: 1 / 0)
    assert len(run_spec(read_spec("spec.yaml"), "work").failed) == 3
    cell = cells(Path("work"))["small gptq s0"]
    assert cell["error"].startswith("ZeroDivisionError") and any("1 / 0" in line for line in cell["traceback"])


def test_a_damaged_cell_is_made_again(done: Path) -> None:
    path = next(Path("work/cells").glob("*gptq*"))
    path.write_text(path.read_text()[:200])
    result = run_spec(read_spec("spec.yaml"), "work")
    assert (result.kept, result.done) == (2, 1)


def test_what_cannot_be_read_is_refused_before_the_first_cell(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for option, words in (
        (["--text", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["--model", "m=nowhere.pth"], "nowhere.pth"),
        (["--model", "nowhere.pth"], "--model is NAME=CHECKPOINT"),
        (["--calib", "nowhere.txt"], "nowhere.txt: there is no such file"),
        (["--max-tokens", "0"], "See rwkvquant lab run --help"),
    ):
        Path("spec.yaml").write_text(SPEC.replace("path: some.txt, ", ""))
        assert run(["lab", "run", "spec.yaml", "--work-dir", "work", *option]) == 2
        assert words in capsys.readouterr().err
    assert not list(Path("work").glob("cells/*"))


def test_a_stop_is_between_two_cells(folder: Path) -> None:
    """The quantiser's own stop, after a block, is tested with it (tests/pipeline/test_resume.py)."""
    said: list[str] = []
    with pytest.raises(StoppedError, match=r"before small rtn 6\.5 s0"):
        run_spec(read_spec("spec.yaml"), "work", say=said.append, stop=lambda: len(said) > 1)
    assert run_spec(read_spec("spec.yaml"), "work").kept == 1


def test_two_runs_in_one_folder_are_refused(folder: Path) -> None:
    def again(line: str) -> None:
        with pytest.raises(RwkvQuantError, match="another process works in"):
            run_spec(read_spec("spec.yaml"), "work")

    run_spec(read_spec("spec.yaml"), "work", say=again)


def test_tables_hold_the_numbers_of_the_cells(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["lab", "tables", "work", "--json"]) == 0
    files = json.loads(capsys.readouterr().out)["files"]
    assert [Path(file).name for file in files] == ["spec.md", "spec.csv", "spec.svg"] and all(Path(file).is_file() for file in files)
    found = {name: cell["results"] for name, cell in cells(Path("work")).items()}
    text = Path("work/tables/spec.md").read_text()
    assert text.startswith("# Rounding / at two widths\n\n3 of 3 cells are done.")
    assert "**The calibration text of 3 rows has parts of the measured text: 100.0 % of its runs of 16 tokens" in text
    for each in found.values():
        assert f"| {each['bits_per_weight']:.3f} | {each['file_bytes']:,} | {1000 * each['kl_mean']:.3f} [" in text
    lines = Path("work/tables/spec.csv").read_text().splitlines()
    assert len(lines) == 4 and f",{found['small gptq s0']['kl_mean']!r}," in lines[3]
    before = Path("work/tables/spec.svg").read_bytes()
    assert run(["lab", "tables", "work"]) == 0 and Path("work/tables/spec.svg").read_bytes() == before


def test_a_table_says_if_the_calibration_text_was_shorter_than_asked(folder: Path) -> None:
    Path("spec.yaml").write_text(SPEC.replace("method: gptq, bits: 4.5", "method: gptq, bits: 4.5, calibration: {rows: 99}"))
    run_spec(read_spec("spec.yaml"), "work")
    rows = cells(Path("work"))["small gptq s0"]["results"]["calibration_rows"]
    assert 2 < rows < 99
    assert run(["lab", "tables", "work"]) == 0
    said = f"**The calibration text of 1 rows is shorter than asked: {rows} rows, not 99 (gptq).**"
    assert said in Path("work/tables/spec.md").read_text()


def test_the_difference_to_the_reference_is_paired(done: Path) -> None:
    store = Store(Path("work"))
    rows = {row.label: row for row in table_rows(store, store.specs()["spec"])}
    assert rows["rtn 4.5"].against is None and rows["rtn 6.5"].against is None
    base, tokenizer = load_model("model.pth")
    cut = windows.text_windows("some.txt", tokenizer, context=128)
    keys = {"rtn": cells(Path("work"))["small rtn 4.5 s0"]["key"], "gptq": cells(Path("work"))["small gptq s0"]["key"]}
    files = {name: f"work/files/{key}.safetensors" for name, key in keys.items()}
    compared = divergence.compare_many(base, {name: load_model(file)[0] for name, file in files.items()}, cut)
    wanted = divergence.difference(compared["gptq"], compared["rtn"])
    against = rows["gptq"].against
    assert against is not None and against["kl_difference"] == pytest.approx(wanted["kl_difference"], rel=1e-12)
    assert against["ci95"] == pytest.approx(wanted["kl_difference_ci95"], rel=1e-9)


def test_tables_say_what_differs_and_what_is_missing(done: Path) -> None:
    path = next(Path("work/cells").glob("*gptq*"))
    cell = json.loads(path.read_text())
    cell["conditions"]["torch"] = "0.0.1"
    path.write_text(json.dumps(cell))
    next(Path("work/cells").glob("*rtn_6.5*")).unlink()
    text = write_tables("work")["spec"]
    assert "2 of 3 cells are done" in text and "| rtn 6.5 | not run yet |" in text
    assert "**Cells differ in torch: 0.0.1," in text
    with pytest.raises(RwkvQuantError, match="no specification was run"):
        write_tables("nowhere")


def test_other_forwards_are_measured_from_the_same_predictions(folder: Path) -> None:
    """And have columns in the tables. A file of another tool is not run by our engine."""
    pytest.importorskip("rwkvquant._native", reason="needs the native module")
    rwkvquant.quantize("model.pth", "whole.safetensors", QuantizeRequest(method="rtn", bits=6.5))
    rwkvquant.export("whole.safetensors", "model.gguf", layout="gguf")
    Path("spec.yaml").write_text(
        SPEC.replace("bits: [4.5, 6.5]", "bits: [4.5]\nforwards: [torch, native, int4]") + "  other: {file: model.gguf}\n"
    )
    run_spec(read_spec("spec.yaml"), "work")
    found = {name: cell["results"] for name, cell in cells(Path("work")).items()}
    cell = found["small gptq s0"]
    for forward in ("native", "int4"):
        compared = rwkvquant.compare(
            "model.pth", f"work/files/{cells(Path('work'))['small gptq s0']['key']}.safetensors", "some.txt", context=128, forward=forward
        ).to_json()
        kept = cell["forwards"][forward]
        assert {name: kept[name] for name in compared if name in kept} == {name: compared[name] for name in compared if name in kept}
        assert np.isclose(sum(kept["each_window"]["kl"]) / sum(kept["each_window"]["tokens"]), kept["kl_mean"])
    assert found["small other s0"]["forwards"].keys() == {"int4"}
    lines = write_tables("work")["spec"].splitlines()
    assert any(line.endswith("| s | KL x 1000, native | KL x 1000, int4 |") for line in lines)
    ratio = cell["forwards"]["int4"]["kl_mean"] / cell["kl_mean"]
    assert any(f"| {1000 * cell['forwards']['int4']['kl_mean']:.3f} (x {ratio:.3f} [" in line for line in lines)
    head, *rows = Path("work/tables/spec.csv").read_text().splitlines()
    assert "kl_mean_native,kl_low_native,kl_high_native,kl_mean_int4" in head
    assert f",{cell['forwards']['native']['kl_mean']!r}," in rows[1]


def test_kl_by_position_has_a_table_and_a_figure(folder: Path) -> None:
    Path("some.txt").write_text(TEXT * 2)
    spec = SPEC.replace("bits: [4.5, 6.5]", "bits: [4.5]\npositions: true").replace("context: 128", "context: 1024")
    Path("spec.yaml").write_text(spec.replace("models: {", "models: {same: model.pth, "))
    run_spec(read_spec("spec.yaml"), "work")
    assert run(["lab", "tables", "work"]) == 0
    key = cells(Path("work"))["same rtn 4.5 s0"]["key"]
    compared = rwkvquant.compare("model.pth", f"work/files/{key}.safetensors", "some.txt", context=1024)
    text = Path("work/tables/spec.md").read_text()
    assert "## same, by position in a window" in text and "## small, by position in a window" not in text.split("## same")[0]
    for row in compared.kl_by_position:
        assert f" {row.last} | {row.tokens:,} | {np.exp(row.nll_base):.2f} | {1000 * row.kl_mean:.3f} [" in text
    assert (Path("work/tables/spec-positions.svg")).read_text().count("<svg") == 1
    assert "positions" in cells(Path("work"))["same rtn 4.5 s0"]["question"]


def test_cells_without_other_forwards_keep_their_question(folder: Path) -> None:
    run_spec(read_spec("spec.yaml"), "work")
    assert all(not {"forwards", "positions"} & (cell["question"].keys() | cell["results"].keys()) for cell in cells(Path("work")).values())
    Path("spec.yaml").write_text(SPEC + "forwards: [torch]\n")
    assert run_spec(read_spec("spec.yaml"), "work").kept == 3


def test_several_seeds_have_a_mean(folder: Path) -> None:
    Path("spec.yaml").write_text(SPEC.replace("method: rtn", "method: rtn, bits: 4.5") + "seeds: [0, 1, 2]\n")
    run_spec(read_spec("spec.yaml"), "work")
    values = [1000 * cell["results"]["kl_mean"] for name, cell in cells(Path("work")).items() if "gptq" in name]
    text = write_tables("work")["spec"]
    assert len(values) == 3 and f"{sum(values) / 3:.3f} ({min(values):.3f} to {max(values):.3f})" in text


def test_runs_that_two_texts_share_are_counted() -> None:
    random = np.random.default_rng(0)
    read = [random.integers(0, 50, size) for size in (200, 10, 90)]
    measured = [random.integers(0, 50, 60), np.concatenate([random.integers(0, 50, 20), read[0][30:70]]), read[2][:15]]
    runs = {tuple(text[at : at + 16]) for text in read for at in range(len(text) - 15)}
    found = [tuple(text[at : at + 16]) in runs for text in measured for at in range(len(text) - 15)]
    assert shared_runs(measured, read) == np.mean(found) == 25 / 90
    assert shared_runs([read[1]], read) == 0.0 == shared_runs(measured, [])
