"""Jobs of gptaq and qronos: every product after the first block hears how far its input has moved, and nothing else changes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant import CalibrationConfig
from rwkvquant.calibration.samples import SEPARATOR
from rwkvquant.codecs import GridConfig
from rwkvquant.pipeline.executor import SerialExecutor
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.tasks import Done, Matrix, Task, perform
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.recipes import Setting
from rwkvquant.transforms import transform_named
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, opened, recipe_of
from tests.quantizers.examples import matrix_and_hessian


class Heard(SerialExecutor):
    """Keeps, for every matrix of a job, whether there was a drift and a text kept out, and the drift relative to H."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[float | None, bool]] = {}

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]:
        for task in tasks:
            assert task.H is not None
            size = None if task.D is None else float(task.D.norm() / task.H.norm())
            self.tasks |= {matrix.name: (size, task.H_kept_out is not None) for matrix in task.matrices}
            yield perform(task)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_every_product_after_the_first_block_gets_its_drift(tmp_path: Path, arch: str) -> None:
    source, heard = checkpoint_file(tmp_path, arch, **TINY | {"layers": 3}), Heard()
    text = tmp_path / "documents.txt"
    text.write_text(SEPARATOR.join(f"{n} green bottles, {n * n} more in the cellar. " * 8 for n in range(16)))
    calibration = CalibrationConfig(path=str(text), rows=16, length=64, batch=4)
    recipe = recipe_of(method="qronos", code_bits=2, emb_bits=16, calibration=calibration)
    quantize(source, tmp_path / "out.safetensors", recipe, executor=heard)
    head = heard.tasks.pop("head.weight")
    assert head == (None, False)
    assert len(heard.tasks) > 3 * 8
    for name, (size, kept_out) in heard.tasks.items():
        assert not kept_out  # a product that corrects errors is not nearest to its own weights there
        assert (size is None) if name.startswith("blocks.0.") else (size is not None and 0 < size < 1), name


def test_without_correction_and_in_the_first_block_the_file_is_that_of_gptq(tmp_path: Path) -> None:
    source, arrays = checkpoint_file(tmp_path, "rwkv7", **TINY), {}
    text = calibration_text(tmp_path, rows=7)  # too few to keep any out, so nothing falls back
    for name, options in {
        "gptq": {"method": "gptq"},
        "none": {"method": "gptaq", "correction": 0.0},
        "gptaq": {"method": "gptaq"},
        "qronos": {"method": "qronos"},
    }.items():
        output = tmp_path / f"{name}.safetensors"
        quantize(source, output, recipe_of(**options, code_bits=3, emb_bits=16, calibration=text))
        packed = opened(output)
        arrays[name] = {tensor: packed.decode(tensor) for tensor in packed.tensors if tensor.endswith("weight")}
    for tensor, values in arrays["gptq"].items():
        first = not tensor.startswith(("blocks.1.", "head"))
        np.testing.assert_array_equal(arrays["none"][tensor], values)
        for method in ("gptaq", "qronos"):
            assert not first or np.array_equal(arrays[method][tensor], values)
    changed = [
        sum(not np.array_equal(arrays[m][t], v) for t, v in arrays["gptq"].items() if "blocks.1.att" in t) for m in ("gptaq", "qronos")
    ]
    assert min(changed) >= 3


@pytest.mark.parametrize("method", ["gptaq", "qronos"])
def test_a_drift_is_turned_with_its_input(method: str) -> None:
    """A task with a transform gives what a task of the turned weights and statistics gives."""
    transform = transform_named("hadamard").make(64, 3)
    W, H = matrix_and_hessian(1, 8, 64)
    D, setting, options = 0.05 * H @ np.diag(np.linspace(0, 1, 64)), Setting(method, GridConfig(3, 32)), QuantizerOptions()

    def done(W: np.ndarray, H: np.ndarray, D: np.ndarray, **more: object) -> np.ndarray:
        arrays = [torch.from_numpy(np.ascontiguousarray(part)) for part in (W, H, D)]
        (result,) = perform(Task((Matrix("W", arrays[0], setting),), options, 1.0, arrays[1], D=arrays[2], **more))  # type: ignore[arg-type]
        return result.quantised.decode()

    turned = [transform.weights(W), transform.hessian(H), transform.activations(transform.activations(D).T).T]
    np.testing.assert_allclose(done(W, H, D, transform=transform), done(*turned), atol=1e-6)


def test_the_recipes_say_what_they_read() -> None:
    for method in ("gptaq", "qronos"):
        recipe = recipe_of(method=method)
        assert recipe.reads_drift and recipe.correction == 1.0 and recipe.calibrated and not recipe.measured
        assert {setting.method for setting in recipe.candidates} == {method} and recipe.head[0].method == "gptq"
    assert not recipe_of(method="gptq", correction=0.5).reads_drift
