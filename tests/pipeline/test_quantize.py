"""The whole job: a checkpoint goes in, a packed file comes out, and the file is what the plan and the definitions say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import CheckpointError, ConfigError, RwkvQuantError
from rwkvquant.formats.container import open_packed
from rwkvquant.models import CheckpointSource, PackedSource, TorchModel, forward_of
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.quantizers.uniform.gptq import gptq
from rwkvquant.quantizers.uniform.rtn import rtn
from rwkvquant.quantizers.uniform.update import refine_grid
from rwkvquant.runtime.session import load
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.helpers import random_state_dict, write_pth
from tests.pipeline.toys import Notes, calibration_text, checkpoint_file, fewest_of, opened


@pytest.fixture
def calibration(tmp_path: Path) -> CalibrationConfig:
    return calibration_text(tmp_path, rows=4)


ODD_SHAPES = {
    "one layer, heads of 8, width 32": {"layers": 1, "width": 32, "head_size": 8},
    "width 96, heads of 32": {"layers": 1, "width": 96, "head_size": 32},
    "width 192, hidden 416": {"layers": 1, "width": 192, "head_size": 64, "hidden": 416},
    "one head": {"layers": 1, "width": 64, "head_size": 64},
    "a tuned state": {"layers": 1, "width": 64, "head_size": 16, "time_state": True},
}


@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES.keys())
@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_any_shape_is_quantised_and_runs_as_torch_does(tmp_path: Path, calibration: CalibrationConfig, arch: str, shape: dict) -> None:
    source = checkpoint_file(tmp_path, arch, **shape)
    result = quantize(source, tmp_path / "out.safetensors", fewest_of(calibration=calibration))
    packed = opened(tmp_path / "out.safetensors")
    assert result.file_bytes == (tmp_path / "out.safetensors").stat().st_size

    tokens = [7, 250, 3, 99, 99, 0, 42]
    session_logits, _ = load(tmp_path / "out.safetensors", activations="float32").forward(tokens, logits="all")
    torch_logits = TorchModel(PackedSource(packed)).forward(torch.tensor([tokens]))[0][0].numpy()
    assert np.abs(session_logits - torch_logits).max() <= 1e-3 * np.abs(torch_logits).max()


def test_default_bits_out_of_reach_use_the_smallest_and_name_it(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", layers=1, width=32, head_size=8)
    notes = Notes()
    result = plan_only(source, QuantizeRequest(method="rtn"), notes)
    assert result.bits_per_weight > 3.275
    assert f"{result.bits_per_weight:.3f}" in notes.notes[0]
    with pytest.raises(ConfigError, match="smallest reachable"):
        plan_only(source, QuantizeRequest(method="rtn", bits=3.275))


@pytest.mark.parametrize("bits", [3.0, 3.275, 4.5])
def test_budget_is_met_from_below_and_planned_to_the_byte(tmp_path: Path, bits: float) -> None:
    source = checkpoint_file(tmp_path, "rwkv6", layers=2, width=192, head_size=64)
    request = QuantizeRequest(bits=bits, method="rtn")
    planned, result = plan_only(source, request), quantize(source, tmp_path / "out.safetensors", request)
    assert bits - 0.1 < result.bits_per_weight <= bits
    sizes = [{t.name: t.stored_bytes for t in r.tensors} for r in (planned, result)]
    assert sizes[0] == sizes[1]
    header = next(row.stored_bytes for row in result.ledger if row.label == "header")
    assert planned.file_bytes + header == result.file_bytes


def test_every_tensor_is_reported_once(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path, "rwkv6", layers=2, width=64)
    notes = Notes()
    quantize(source, tmp_path / "out.safetensors", QuantizeRequest(method="rtn"), progress=notes)
    names = [report.name for report in notes.reports]
    assert len(names) == notes.expected == len(set(names))
    assert set(names) == set(open_packed(tmp_path / "out.safetensors").tensors)


def test_rtn_file_holds_what_rtn_returns(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path, "rwkv6", layers=1, width=64)
    request = QuantizeRequest(method="rtn", code_bits=3, group_size=32)
    quantize(source, tmp_path / "out.safetensors", request)
    checkpoint, packed = open_checkpoint(source), open_packed(tmp_path / "out.safetensors")
    for matrix in checkpoint.logical_matrices():
        stored = packed.qtensor(matrix.name)
        if matrix.layer is None:
            continue  # the head has its own bits
        expected = rtn(checkpoint.read_matrix(matrix.name), stored_grid(stored), "weight")
        assert np.array_equal(stored.codes, expected.codes) and np.array_equal(stored.decode(), expected.decode()), matrix.name


def stored_grid(tensor):
    from rwkvquant.codecs import GridConfig

    return GridConfig(tensor.bits, tensor.group_size, tensor.zeros is None, 8 if tensor.scales is None else 16)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_each_block_is_calibrated_on_what_the_quantised_blocks_before_it_give(
    tmp_path: Path, calibration: CalibrationConfig, arch: str
) -> None:
    """The second block's codes are GPTQ's, refined, on the Hessian of the original second block after the *packed* first one."""
    source = checkpoint_file(tmp_path, arch, layers=2, width=64)
    request = QuantizeRequest(method="gptq", code_bits=3, calibration=calibration)
    quantize(source, tmp_path / "out.safetensors", request)
    checkpoint, packed = open_checkpoint(source), open_packed(tmp_path / "out.safetensors")
    tokens = calibration_rows(
        load_documents(calibration.path), load_tokenizer(None, 256), calibration.rows, calibration.length, request.seed
    )
    model, before = forward_of(arch), PackedSource(packed)
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        x, _, carry = model.block(before.block(0), model.embed(before.globals(), torch.from_numpy(tokens)), None, None)
        model.block(CheckpointSource(checkpoint).block(1), x, None, carry, lambda name, value: seen.setdefault(name, value))

    checked = 0
    for matrix in checkpoint.logical_matrices():
        if matrix.layer != 1:
            continue
        X = seen[matrix.spec.input] if matrix.index is None else seen[matrix.spec.input][matrix.index]
        X = X.reshape(-1, X.shape[-1]).double()
        stored = packed.qtensor(matrix.name)
        W = torch.from_numpy(checkpoint.read_matrix(matrix.name))
        H = X.T @ X / len(X)
        expected = gptq(W, H, stored_grid(stored), damping=0.05, act_order=True, clip_search="hessian")
        expected = refine_grid(W, H, expected)
        # The pipeline adds H up in batches, in another order: a weight halfway between two codes may get the other one.
        assert (stored.codes == expected.codes).mean() > 0.99, matrix.name
        checked += 1
    assert checked == sum(matrix.layer == 1 for matrix in checkpoint.logical_matrices()) > 10


def test_sixteen_bits_keep_what_float16_holds(tmp_path: Path) -> None:
    state = random_state_dict("rwkv7", layers=1, width=64, dtype=torch.float16)
    source = write_pth(tmp_path / "half.pth", state)
    quantize(source, tmp_path / "out.safetensors", QuantizeRequest(method="rtn", head_bits=16, emb_bits=16, vector_bits=16))
    packed = open_packed(tmp_path / "out.safetensors")
    for name in ("emb.weight", "head.weight", "blocks.0.att.x_k", "blocks.0.att.w0", "blocks.0.ln1.weight"):
        assert np.array_equal(packed.qtensor(name).decode(), state[name].float().numpy()), name


def test_tensor_bits_override_the_plan(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", layers=2, width=64)
    result = plan_only(source, QuantizeRequest(method="rtn", bits=4.5, tensor_bits=("blocks.0.att.value=8",)))
    layouts = {t.name: t.layout for t in result.tensors}
    assert layouts["blocks.0.att.value.weight"].startswith("uniform8.")
    assert not layouts["blocks.1.att.value.weight"].startswith("uniform8.")
    with pytest.raises(ConfigError, match=r"att\.valu"):
        plan_only(source, QuantizeRequest(method="rtn", tensor_bits=("att.valu=8",)))


def test_same_command_gives_the_same_bytes(tmp_path: Path, calibration: CalibrationConfig) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", layers=2, width=64)
    for name in ("a", "b"):
        quantize(source, tmp_path / name, fewest_of(calibration=calibration))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.mark.parametrize("method", ["gptq", "rwkvquant"])  # rwkvquant finds it in pass 1
def test_nothing_is_left_after_a_failure(
    tmp_path: Path, calibration: CalibrationConfig, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    state = random_state_dict("rwkv7", layers=2, width=64)
    state["blocks.1.ffn.value.weight"][3, 5] = float("nan")
    with pytest.raises(CheckpointError, match=r"blocks\.1\.ffn\.value\.weight"):
        quantize(write_pth(tmp_path / "nan.pth", state), out / "x.safetensors", QuantizeRequest(method=method, calibration=calibration))
    assert leftovers(out) == []

    import rwkvquant.formats.disk as disk

    written = 0

    def disk_with_room_for_100_kb(file, data) -> None:
        nonlocal written
        written += len(data)
        if written > 100_000:
            raise OSError(28, "No space left on device")
        file.write(data)

    monkeypatch.setattr(disk, "write_all", disk_with_room_for_100_kb)
    good = checkpoint_file(tmp_path, "rwkv7", layers=2, width=64)
    with pytest.raises(RwkvQuantError, match="full"):
        quantize(good, out / "x.safetensors", QuantizeRequest(method="gptq", calibration=calibration))
    assert leftovers(out) == []
