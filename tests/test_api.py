"""What `import rwkvquant` promises: names that exist, typed results with the numbers of the commands, and no torch where none is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rwkvquant
from rwkvquant.cli.main import run

ROOT = Path(__file__).parents[1]
PACKED = ROOT / "tests/data/rwkv7-tiny-rtn4.safetensors"
CHECKPOINT = ROOT / "tests/data/rwkv7-tiny.pth"
NEED_TORCH = {"compare", "compare_images", "evaluate", "evaluate_images", "evaluate_lambada", "quantize"}


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "some.txt"
    path.write_text((ROOT / "demo/eval.txt").read_text()[:4000])
    return path


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    answer: dict[str, Any] = json.loads(capsys.readouterr().out)
    return answer


def plain(result: Any) -> Any:
    return json.loads(json.dumps(result.to_json(), allow_nan=False))


def test_every_public_name_exists_and_no_other_does() -> None:
    assert sorted(rwkvquant.__all__) == rwkvquant.__all__
    for name in rwkvquant.__all__:
        assert getattr(rwkvquant, name) is not None
    with pytest.raises(AttributeError, match="no attribute quantise"):
        rwkvquant.quantise  # noqa: B018


def test_only_the_functions_that_measure_and_quantise_need_torch() -> None:
    script = f"""
import sys, rwkvquant
for name in rwkvquant.__all__:
    if name not in {NEED_TORCH!r}:
        getattr(rwkvquant, name)
        assert "torch" not in sys.modules, name
rwkvquant.inspect({str(PACKED)!r}), rwkvquant.verify({str(PACKED)!r}), rwkvquant.load({str(PACKED)!r}).generate("a", max_tokens=1)
sys.exit(17 if "torch" in sys.modules else 0)
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_function_is_still_a_function_after_its_room_was_imported() -> None:
    import rwkvquant.exporting.layouts
    import rwkvquant.runtime.inspection

    for name in ("compare", "evaluate", "export", "inspect", "load", "quantize", "verify"):
        assert callable(getattr(rwkvquant, name)), name


def test_results_have_what_the_commands_print(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed, checkpoint = str(PACKED), str(CHECKPOINT)
    for path in (packed, checkpoint):
        assert plain(rwkvquant.inspect(path)) == printed(capsys, "inspect", path)
    compared = plain(rwkvquant.compare(checkpoint, packed, text))
    assert compared == {
        key: value
        for key, value in printed(capsys, "compare", checkpoint, packed, "--text", str(text)).items()
        if key not in ("original", "quantised")
    }
    evaluated = printed(capsys, "eval", packed, "--text", str(text))
    assert {"file": packed, **plain(rwkvquant.evaluate(packed, text))} == evaluated
    (tmp_path / "lambada.jsonl").write_text('{"text": "the cat sat on the mat"}\n')
    lambada = printed(capsys, "eval", packed, "--lambada", str(tmp_path / "lambada.jsonl"))
    assert {"file": packed, **plain(rwkvquant.evaluate_lambada(packed, tmp_path / "lambada.jsonl"))} == lambada
    exported = plain(rwkvquant.export(packed, tmp_path / "a.st", layout="safetensors"))
    assert exported | {"output": ""} == printed(capsys, "export", packed, "-o", str(tmp_path / "b.st"), "--layout", "safetensors") | {
        "output": ""
    }
    model = rwkvquant.load(packed, threads=1)
    generated = model.generate("The", max_tokens=5, sampling=rwkvquant.SamplingConfig(temperature=0, seed=1))
    assert plain(generated) == printed(capsys, "generate", packed, "-p", "The", "-n", "5", "--temperature", "0", "--seed", "1")


def test_a_packed_file_and_a_checkpoint_are_inspected_with_types() -> None:
    packed, checkpoint = rwkvquant.inspect(PACKED), rwkvquant.inspect(CHECKPOINT)
    assert isinstance(packed, rwkvquant.PackedInfo) and isinstance(checkpoint, rwkvquant.CheckpointInfo)
    assert packed.dims.width == checkpoint.dims.width and packed.arch == checkpoint.arch == "rwkv7"
    assert sum(row.stored_bytes for row in packed.ledger if not row.subtotal) == packed.file_bytes == PACKED.stat().st_size
    assert sum(checkpoint.parameters_by_role.values()) == checkpoint.parameters
    assert rwkvquant.verify(PACKED) == len(packed.tensors)


def test_quantize_says_what_it_wrote(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = {"method": "rtn", "bits": 4.5, "tokenizer": str(ROOT / "tests/data/tokenizer.json")}
    result = rwkvquant.quantize(CHECKPOINT, tmp_path / "a.safetensors", rwkvquant.QuantizeRequest(**options))
    assert result.file_bytes == (tmp_path / "a.safetensors").stat().st_size and result.output == str(tmp_path / "a.safetensors")
    assert result.bits_per_weight is not None and 4 < result.bits_per_weight <= 4.5 < result.source.bits_per_weight
    arguments = ["--method", "rtn", "--bits", "4.5", "--tokenizer", options["tokenizer"]]
    again = printed(capsys, "quantize", str(CHECKPOINT), "-o", str(tmp_path / "b.safetensors"), *arguments)
    assert plain(result) | {"output": ""} == again | {"output": ""}
    planned = printed(capsys, "quantize", str(CHECKPOINT), "--dry-run", *arguments)
    assert planned.keys() == again.keys() - {"output", "fallen_back"} and planned["bits_per_weight"] == result.bits_per_weight
