from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import random_state_dict, write_pth
from tests.lab.small import SPEC, TEXT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: it has a model, a text and a specification."""
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64))
    (tmp_path / "some.txt").write_text(TEXT)
    (tmp_path / "spec.yaml").write_text(SPEC)
    monkeypatch.chdir(tmp_path)
    return tmp_path
