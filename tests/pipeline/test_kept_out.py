"""Quantisers do not see some documents, and are tested on them: a tensor is rounded plainly where error feedback does worse there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import CalibrationConfig
from rwkvquant.calibration.samples import SEPARATOR
from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.models import CheckpointSource, forward_of
from rwkvquant.pipeline import pass_1 as pass_1_module
from rwkvquant.pipeline import tasks as tasks_module
from rwkvquant.pipeline import tensors as tensors_module
from rwkvquant.pipeline.blocks import CalibrationRun
from rwkvquant.pipeline.calibrate import Calibration, calibrate, documents_of
from rwkvquant.pipeline.choose import choose_settings
from rwkvquant.pipeline.executor import SerialExecutor
from rwkvquant.pipeline.plan import make_plan
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.tensors import Collected, TensorWriter
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.recipes import Recipe, Setting
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.pipeline.toys import TINY, Notes, checkpoint_file, few_of, opened, recipe_of

LETTERS = "abcdefghijklmnop"  # one document each; the first and the ninth are kept out


def letters(tmp_path: Path, rows: int = 16, documents: str = LETTERS) -> CalibrationConfig:
    path = tmp_path / "letters.txt"
    path.write_text(SEPARATOR.join(letter * 127 for letter in documents))
    return CalibrationConfig(path=str(path), rows=rows, length=64, batch=4)


def calibrated(recipe: Recipe, arch: str = "rwkv7") -> Calibration:
    found = calibrate(arch, recipe, documents_of(recipe), load_tokenizer("bytes", 256), Notes())
    assert found is not None
    return found


def test_documents_kept_out_are_the_last_rows_and_no_others(tmp_path: Path) -> None:
    found = calibrated(recipe_of(calibration=letters(tmp_path)))
    assert found.rows.shape == (16, 64) and found.kept_out == 2
    tokens = {letter: set(load_tokenizer("bytes", 256).encode(letter)) for letter in LETTERS}
    judges = {letter for letter in LETTERS if tokens[letter] & set(found.rows[-2:].ravel().tolist())}
    seen = {letter for letter in LETTERS if tokens[letter] & set(found.rows[:-2].ravel().tolist())}
    assert judges and judges <= {"a", "i"} and seen and not seen & {"a", "i"}


@pytest.mark.parametrize(
    ("options", "rows", "documents"),
    [({"fall_back": False}, 16, LETTERS), ({}, 7, LETTERS), ({}, 14, "abcdefg")],
    ids=["no", "rows", "few"],
)
def test_nothing_is_kept_out_of_little_text_or_without_fall_back(tmp_path: Path, options: dict, rows: int, documents: str) -> None:
    found = calibrated(recipe_of(**options, calibration=letters(tmp_path, rows, documents)))
    assert found.kept_out == 0 and len(found.rows) == rows


def test_statistics_of_seen_rows_and_of_rows_kept_out(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, "rwkv6", **TINY))
    recipe = recipe_of(calibration=letters(tmp_path))
    found_text = calibrated(recipe, "rwkv6")
    tokens = found_text.rows
    assert found_text.kept_out == 2
    text = CalibrationRun(checkpoint, recipe, found_text, tmp_path, torch.device("cpu"), Notes())
    source, module = CheckpointSource(checkpoint), forward_of("rwkv6")
    outer, block = source.globals(), source.block(0)
    text.embed(outer, outer)
    found = text.collect(block, 0)
    for statistics, rows in ((found.inputs, tokens[:-2]), (found.kept_out, tokens[-2:])):
        heard: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            module.block(block, module.embed(outer, torch.from_numpy(rows)), None, None, heard.__setitem__)
        X = heard["ffn.xk"].reshape(-1, 64).double()
        torch.testing.assert_close(statistics["ffn.xk"].H, X.T @ X / len(X), rtol=1e-4, atol=1e-6)
    assert found.missing == {}  # before the first block there is nothing to make up for
    text.advance(block, block, 0)
    missing = text.collect(source.block(1), 1).missing
    assert set(missing) == {"blocks.1.att.output.weight", "blocks.1.ffn.value.weight"}
    for name, sums in missing.items():  # both streams ran through the same weights
        assert torch.equal(sums.W, source.block(1)[name.removeprefix("blocks.1.")]) and not bool(sums.moment.any())


def test_pass_1_does_not_see_what_is_kept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[np.ndarray] = []

    def stop(checkpoint, recipe, calibration, *rest):  # type: ignore[no-untyped-def]
        given.append(calibration.seen)
        raise KeyboardInterrupt

    monkeypatch.setattr(pass_1_module, "measure", stop)
    recipe = few_of(calibration=letters(tmp_path), tokenizer="bytes")
    with pytest.raises(KeyboardInterrupt):
        quantize(checkpoint_file(tmp_path, "rwkv6", **TINY), tmp_path / "out", recipe)
    assert np.array_equal(given[0], calibrated(recipe).rows[:-2])


def statistics_of(X: torch.Tensor) -> InputStatistics:
    statistics = InputStatistics(X.shape[1])
    statistics.add(X)
    return statistics


class NoFile:
    def add(self, *args: object, **options: object) -> None:
        raise AssertionError("nothing is written")


def tensor_writer(checkpoint: Checkpoint, recipe: Recipe) -> tuple[TensorWriter, list]:
    plan = make_plan(checkpoint, recipe, choose_settings(checkpoint, recipe, None, {}, Notes()))
    return TensorWriter(checkpoint, plan, recipe, NoFile(), Notes(), SerialExecutor()), plan  # type: ignore[arg-type]


@pytest.mark.parametrize("method", ["gptq", "gptvq"])
@pytest.mark.parametrize("judged", [1 << 20, 64 * 32])
def test_a_tensor_falls_back_where_feedback_does_worse_on_text_kept_out(
    tmp_path: Path, method: str, judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feedback on three tokens pushes all errors to other inputs, where it is tested. 32 rows may decide for all."""
    monkeypatch.setattr(tasks_module, "TRIED_FIRST", judged)
    tried: list[tuple[str, int]] = []
    real = tasks_module.quantize_matrix

    def watched(setting: Setting, options: QuantizerOptions, W: torch.Tensor, *rest: Any) -> Any:
        tried.append((setting.method, len(W)))
        return real(setting, options, W, *rest)

    monkeypatch.setattr(tasks_module, "quantize_matrix", watched)
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, "rwkv6", **TINY))
    recipe = recipe_of(method=method, code_bits=3, damping=0.001)
    name = "blocks.0.ffn.key.weight"
    W = torch.from_numpy(checkpoint.read_matrix(name))
    generator = torch.Generator().manual_seed(0)
    few, many = torch.randn(3, 64, generator=generator), torch.randn(500, 64, generator=generator)
    plain = {"gptq": "rtn", "gptvq": "kmeans"}[method]
    for judges, expected in ((many, plain), (few, method), (None, method)):
        writer, plan = tensor_writer(checkpoint, recipe)
        tensor = next(t for t in plan if t.name == name)
        collected = Collected({"ffn.xk": statistics_of(few)}, {} if judges is None else {"ffn.xk": statistics_of(judges)})
        (task,) = writer._tasks([tensor], {tensor.key: W}, collected)
        assert not collected.inputs and not collected.kept_out
        (done,) = tasks_module.perform(task)
        assert (done.setting.method, done.setting.codec) == (expected, tensor.setting.codec)
        assert done.fell_back == (expected == plain)
        first = [(plain, 32)] * (W.numel() > judged)
        whole = [(plain, len(W))] * (judges is many or not first)
        assert tried == [(method, len(W))] + (first + whole if judges is not None else [])
        tried.clear()
        assert done.error == pytest.approx(hessian_error(W, done.quantised.decode(), statistics_of(few).H.float()))


@pytest.mark.parametrize("judged", [1 << 20, 64 * 32])
def test_a_matrix_of_zeros_does_not_fall_back(tmp_path: Path, judged: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways lose nothing, which is no reason to fall back."""
    monkeypatch.setattr(tasks_module, "TRIED_FIRST", judged)
    checkpoint = open_checkpoint(checkpoint_file(tmp_path, "rwkv6", **TINY))
    writer, plan = tensor_writer(checkpoint, recipe_of(method="gptq", code_bits=3))
    tensor = next(t for t in plan if t.name == "blocks.0.ffn.key.weight")
    X = torch.randn(100, 64, generator=torch.Generator().manual_seed(0))
    collected = Collected({"ffn.xk": statistics_of(X)}, {"ffn.xk": statistics_of(X)})
    (task,) = writer._tasks([tensor], {tensor.key: torch.zeros(tensor.shape)}, collected)
    (done,) = tasks_module.perform(task)
    assert done.setting.method == "gptq" and not done.fell_back


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_statistics_of_a_block_are_freed_as_they_are_used(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real, collected_before, left = TensorWriter.write, [], []

    def watched(self: TensorWriter, weights: Any, layer: int | None, roles: Any, collected: Collected = tensors_module.NOTHING) -> Any:
        collected_before.append(len(collected.inputs) + len(collected.kept_out) + len(collected.missing))
        after = real(self, weights, layer, roles, collected)
        left.append((set(collected.inputs), set(collected.kept_out), set(collected.missing)))
        return after

    monkeypatch.setattr(TensorWriter, "write", watched)
    recipe = few_of(calibration=letters(tmp_path), tokenizer="bytes")
    quantize(checkpoint_file(tmp_path, arch, **TINY), tmp_path / "out", recipe)
    assert sum(collected_before) > 20
    assert all(each == (set(), set(), set()) for each in left), left


def test_the_file_and_the_user_learn_what_fell_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoiled, real = "blocks.0.att.key.weight", tasks_module.quantize_matrix
    source = checkpoint_file(tmp_path, "rwkv6", **TINY | {"layers": 1})
    target = torch.from_numpy(open_checkpoint(source).read_matrix(spoiled))

    def worse(setting, options, W, hessian):  # type: ignore[no-untyped-def]
        broken = setting.feedback and W.shape == target.shape and torch.equal(W, target)
        return real(setting, options, 3 * W if broken else W, hessian)

    monkeypatch.setattr(tasks_module, "quantize_matrix", worse)
    for fall_back, method in ((True, "rtn"), (False, "gptq")):
        recipe = recipe_of(method="gptq", code_bits=4, calibration=letters(tmp_path), fall_back=fall_back)
        notes = Notes()
        result = quantize(source, tmp_path / f"{fall_back}", recipe, progress=notes)
        assert opened(tmp_path / f"{fall_back}").tensors[spoiled].method == method
        assert (spoiled in result.fallen_back) == fall_back == any(spoiled in note for note in notes.notes)
        assert next(report for report in notes.reports if report.name == spoiled).method == method
