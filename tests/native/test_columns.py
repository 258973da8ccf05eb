"""Which columns of a matrix stored by columns are read: results never depend on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwkvquant.bench.random_model import write_random_model
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import load, logits_hash
from tests.runtime.test_engine import SIZES


@pytest.mark.parametrize("size", SIZES)
def test_reading_all_columns_changes_no_bit(size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch, dims = SIZES[size]
    write_random_model(tmp_path / "model", arch, dims, bits=4)
    assert any(entry.packing.layout.startswith("sections") for entry in open_packed(tmp_path / "model").tensors.values())
    hashes = set()
    for columns in ("used", "all"):
        monkeypatch.setenv("RWKVQUANT_COLUMNS", columns)
        model = load(tmp_path / "model", threads=2)
        slots = model.slots(1)
        slot = slots.add()
        steps = [slots.forward({slot: [token]})[slot] for token in range(9)]
        hashes.add(tuple(map(logits_hash, [*steps, model.forward(list(range(9)), logits="all")[0]])))
    assert len(hashes) == 1


def test_another_choice_of_columns_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch, dims = SIZES["rwkv7 heads of 16"]
    write_random_model(tmp_path / "model", arch, dims, bits=4)
    monkeypatch.setenv("RWKVQUANT_COLUMNS", "none")
    with pytest.raises(ConfigError, match="RWKVQUANT_COLUMNS must be one of used, all; got none"):
        load(tmp_path / "model")
