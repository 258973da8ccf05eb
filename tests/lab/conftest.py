from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import read_spec
from tests.helpers import random_state_dict, write_pth
from tests.lab.small import SPEC, TEXT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: it has a model, a text and a specification."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`work` of such a folder, in which the specification was run."""
    folder = tmp_path_factory.mktemp("prepared")
    write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run_spec(read_spec("spec.yaml"), "work")
    return folder / "work"


@pytest.fixture
def done(folder: Path, prepared: Path) -> Path:
    """The working directory, with a `work` in which the specification was run."""
    shutil.copytree(prepared, folder / "work")
    return folder


def write_inputs(folder: Path) -> None:
    write_pth(folder / "model.pth", random_state_dict("rwkv7", layers=1, width=64))
    (folder / "some.txt").write_text(TEXT)
    (folder / "spec.yaml").write_text(SPEC)
