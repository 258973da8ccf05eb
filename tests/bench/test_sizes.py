"""Planned sizes are those of the file that is written, and the README has the table that the benchmark prints."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

from rwkvquant.architectures import Dims
from rwkvquant.bench.measure import bytes_per_token
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.bench.sizes import planned_size
from rwkvquant.formats.container import open_packed

ROOT = Path(__file__).parents[2]
SMALL = Dims(2, 320, 640, 256, 5, 64, {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 64})
SMALL_6 = Dims(2, 320, 640, 256, 5, 64, {"Rm": 32, "Rd": 64})


@pytest.mark.parametrize(("arch", "dims"), [("rwkv7", SMALL), ("rwkv6", SMALL_6)])
def test_a_planned_size_is_that_of_the_written_file(arch: str, dims: Dims, tmp_path: Path) -> None:
    write_random_model(tmp_path / "m.safetensors", arch, dims, bits=4.0)
    packed, size = open_packed(tmp_path / "m.safetensors"), planned_size(arch, dims, bits=4.0)
    header = next(row.stored_bytes for row in packed.ledger().rows() if row.label == "header")
    assert size.tensor_bytes == packed.file_bytes - header
    assert size.token_bytes == bytes_per_token(packed)
    assert size.weights == packed.ledger().weights


def test_the_readme_has_the_table_that_the_benchmark_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    benchmark = importlib.import_module("size_table")
    table = benchmark.table()
    monkeypatch.setattr(benchmark, "table", lambda: table)  # it takes 10 seconds

    def checked(document: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["size_table.py", "--check", str(document)])
        code: int = benchmark.main()
        return code

    assert checked(ROOT / "README.md") == 0
    before, row, after = (ROOT / "README.md").read_text().partition("| RWKV-7 0.4B |")
    assert row
    (tmp_path / "other.md").write_text(before + row + re.sub(r"\d", lambda digit: str(9 - int(digit[0])), after, count=1))
    assert checked(tmp_path / "other.md") == 1
