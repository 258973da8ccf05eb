"""The ledger adds up to the last byte, and bits per weight are counted from stored bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.codecs import GridConfig
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.ledger import ROLES, Ledger, make_item
from tests.formats.examples import write_model


def test_rows_add_up_to_the_files_size(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.safetensors")
    ledger = open_packed(path).ledger()
    size = path.stat().st_size
    assert ledger.file_bytes == size
    assert sum(row.stored_bytes for row in ledger.rows() if not row.subtotal) == size
    assert ledger.rows()[-1].label == "file" and ledger.rows()[-1].stored_bytes == size
    assert {"header", "tokenizer", "embedding", "head", "LoRA factors"} <= {row.label for row in ledger.rows()}


def test_bits_per_weight_counts_what_the_matrices_store() -> None:
    grid = GridConfig(3, 64)
    items = (
        make_item("a", "projection", (64, 64), grid.stored_bytes((64, 64)), "gptq", "uniform3.t16x64"),
        make_item("b", "lora", (64, 32), grid.stored_bytes((64, 32)), "gptq", "uniform3.t16x32", {"error": 0.5}),
        make_item("c", "head", (64, 64), 64 * 64 * 2, "dense", "dense.f16"),
    )
    a = 64 * 64 * 3 // 8 + 64 + 128 + 64  # codes; one scale a row; one float16 a row; zeros: 24 bytes padded to 64
    b = 64 * 32 * 3 // 8 + 64 + 128 + 64
    ledger = Ledger(items, tokenizer_bytes=64, header_bytes=128)
    assert ledger.bits_per_weight_projections == 8 * a / 4096
    assert ledger.bits_per_weight == 8 * (a + b) / (4096 + 2048)
    assert ledger.file_bytes == a + b + 8192 + 192
    assert ledger.bits_per_weight_file == 8 * ledger.file_bytes / (4096 + 2048 + 4096)


def test_json_has_the_keys_other_tools_read(tmp_path: Path) -> None:
    result = json.loads(json.dumps(open_packed(write_model(tmp_path / "m.safetensors")).summary(), allow_nan=False))
    assert {"bits_per_weight", "bits_per_weight_projections", "bits_per_weight_file", "file_bytes", "tensors"} <= result.keys()
    first = result["tensors"][1]
    assert first["name"] == "blocks.0.att.receptance.weight" and first["error"] == 0.25
    assert first["bits_per_weight"] == 8 * first["stored_bytes"] / 1024
    assert {"name", "role", "method", "layout", "shape", "bits_per_weight"} <= first.keys()


def test_an_extra_key_never_replaces_a_fact() -> None:
    item = make_item("a", "head", (1, 1), 64, "rtn", "uniform3.rows", {"name": "liar", "stored_bytes": 1})
    entry = Ledger((item,)).to_json()["tensors"][0]
    assert entry["name"] == "a" and entry["stored_bytes"] == 64


def test_a_ledger_without_matrices_has_no_bits() -> None:
    ledger = Ledger(())
    assert (ledger.bits_per_weight, ledger.bits_per_weight_file, ledger.file_bytes) == (None, None, 0)


def test_every_role_of_the_tables_has_its_row() -> None:
    assert set(ROLES) == {str(role) for role in Role}
    for role in Role:
        ledger = Ledger((make_item("t", role, (4, 4), 64, "dense", "dense.f32"),))
        assert sum(row.stored_bytes for row in ledger.rows() if not row.subtotal) == 64
        assert (ledger.bits_per_weight is not None) == (role in QUANTIZED_ROLES)


@pytest.mark.parametrize("rows_layout", [False, True])
def test_a_planned_ledger_equals_the_written_one(tmp_path: Path, rows_layout: bool) -> None:
    packed = open_packed(write_model(tmp_path / "m.safetensors"))
    name = "emb.weight" if rows_layout else "head.weight"
    planned = GridConfig(8 if rows_layout else 6, 64).stored_bytes((48, 32), rows_layout)
    assert next(item for item in packed.ledger().items if item.name == name).stored_bytes == planned
