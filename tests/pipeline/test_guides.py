"""Jobs of lnq: every matrix gets the second moments of its groups of rows, and a job that is stopped finds them again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.pipeline.executor import SerialExecutor
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.tasks import Done, Task, perform
from rwkvquant.recipes import Recipe
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, opened, projections, recipe_of


class Heard(SerialExecutor):
    """Keeps what each matrix of a job is given."""

    def __init__(self) -> None:
        self.of_rows: dict[str, torch.Tensor | None] = {}

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Done, ...]]:
        for task in tasks:
            assert task.H is not None and task.H_kept_out is None
            for matrix in task.matrices:
                self.of_rows[matrix.name] = matrix.of_rows
            yield perform(task)


SMALL = TINY | {"width": 32, "head_size": 8, "hidden": 64}


def lnq(tmp_path: Path, groups: int) -> Recipe:
    text = calibration_text(tmp_path, rows=4, length=64)
    return recipe_of(method="lnq", code_bits=3, emb_bits=16, own_options=(f"groups={groups}",), calibration=text)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_every_matrix_gets_the_moments_of_its_groups(tmp_path: Path, arch: str) -> None:
    source, heard = checkpoint_file(tmp_path, arch, **SMALL | {"layers": 1}), Heard()
    quantize(source, tmp_path / "out.safetensors", lnq(tmp_path, 2), executor=heard)
    packed = opened(tmp_path / "out.safetensors")
    assert heard.of_rows.pop("head.weight") is None
    assert heard.of_rows.keys() == projections(packed).keys() and set(projections(packed).values()) == {"lnq"}
    for name, found in heard.of_rows.items():
        assert found is not None
        width = packed.tensors[name].shape[1]
        assert found.shape == (2, width, width)
        assert torch.allclose(found, found.transpose(1, 2)) and float(torch.linalg.eigvalsh(found.double()).min()) > -1e-6 * found.max()
        shares = found / found.diagonal(dim1=1, dim2=2).sum(1)[:, None, None]
        assert (shares[0] - shares[1]).norm() > 1e-3 * shares[0].norm()  # groups have gradients of their own


def test_guides_change_the_codes_and_0_groups_need_none(tmp_path: Path) -> None:
    source, values = checkpoint_file(tmp_path, "rwkv7", **SMALL | {"layers": 1}), {}
    for groups in (0, 4):
        notes = Notes()
        quantize(source, tmp_path / f"{groups}.safetensors", lnq(tmp_path, groups), progress=notes)
        assert ("gradients of groups of rows" in notes.phases) == (groups > 0)
        packed = opened(tmp_path / f"{groups}.safetensors")
        values[groups] = {name: packed.decode(name) for name, method in projections(packed).items() if method == "lnq"}
    both = values[0].keys() & values[4].keys()
    assert len(both) > 5 and all(not np.array_equal(values[0][name], values[4][name]) for name in both)


def test_a_stopped_job_continues_to_the_same_bytes(tmp_path: Path) -> None:
    source, recipe = checkpoint_file(tmp_path, "rwkv7", **SMALL), lnq(tmp_path, 1)
    quantize(source, tmp_path / "whole.safetensors", recipe)
    with pytest.raises(StoppedError):
        quantize(source, tmp_path / "out.safetensors", recipe, work_dir=tmp_path / "work", stop=lambda: True)
    quantize(source, tmp_path / "out.safetensors", recipe, work_dir=tmp_path / "work")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()


def test_a_mistake_in_the_groups_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^groups must be 0 to 64 for the method lnq; got 65$"):
        lnq(tmp_path, 65)
