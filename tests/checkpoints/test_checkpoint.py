from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES, Role
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.errors import CheckpointError, RwkvQuantError
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.helpers import random_state_dict, write_pth

DATA = Path(__file__).parents[1] / "data"


def checkpoint_of(tmp_path: Path, arch: str, **options: object) -> tuple[Checkpoint, dict[str, torch.Tensor]]:
    state_dict = random_state_dict(arch, **options)
    return open_checkpoint(write_pth(tmp_path / "a.pth", state_dict)), state_dict


def test_a_trained_checkpoint_opens() -> None:
    checkpoint = open_checkpoint(str(DATA / "rwkv6-8m.pth"))
    assert checkpoint.path == DATA / "rwkv6-8m.pth"
    assert checkpoint.arch == "rwkv6"
    dims = checkpoint.dims
    assert (dims.layers, dims.width, dims.hidden, dims.vocab, dims.heads, dims.head_size) == (6, 256, 896, 4096, 4, 64)
    assert dims.ranks == {"Rm": 32, "Rd": 64}
    assert checkpoint.tensors["head.weight"].dtype == "float16"


@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_specs_are_the_used_tensors_in_the_order_of_the_table(tmp_path: Path, arch: str) -> None:
    checkpoint, state_dict = checkpoint_of(tmp_path, arch, layers=3, time_state=True)
    specs = list(checkpoint.specs())
    names = [name for name, _, _ in specs]
    assert set(state_dict) - set(names) == ({f"blocks.0.att.v{i}" for i in range(3)} if arch == "rwkv7" else set())
    assert names[0] == "emb.weight" and names[-1] == "head.weight" and len(set(names)) == len(names)
    for name, spec, layer in specs:
        assert name == (spec.name if layer is None else f"blocks.{layer}.{spec.name}")
        assert spec in (ARCHITECTURES[arch].outside if layer is None else ARCHITECTURES[arch].table)
    assert [layer for _, _, layer in specs if layer is not None] == sorted(layer for _, _, layer in specs if layer is not None)
    in_table = [spec.name for spec in ARCHITECTURES[arch].table if spec.layers != "first"]
    assert [spec.name for _, spec, layer in specs if layer == 1] == in_table


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_logical_matrices_are_out_by_in(tmp_path: Path, arch: str, dtype: torch.dtype) -> None:
    checkpoint, state_dict = checkpoint_of(tmp_path, arch, width=96, hidden=160, dtype=dtype)
    seen = set()
    for matrix in checkpoint.logical_matrices():
        values = checkpoint.read_matrix(matrix.name)
        stored = state_dict[matrix.source].float()
        expected = stored.t() if matrix.spec.transposed and matrix.index is None else stored
        if matrix.index is not None:
            assert matrix.name == f"{matrix.source}.{matrix.index}"
            expected = stored[matrix.index].t()
        assert values.shape == matrix.shape and values.flags.c_contiguous and values.dtype == np.float32
        np.testing.assert_array_equal(values, expected.numpy(), err_msg=matrix.name)
        seen.add(matrix.source)
    roles = (Role.PROJECTION, Role.LORA, Role.HEAD)
    assert seen == {name for name, spec, _ in checkpoint.specs() if spec.role in roles}


def test_the_five_slices_of_time_maa_w2_are_five_matrices(tmp_path: Path) -> None:
    checkpoint, state_dict = checkpoint_of(tmp_path, "rwkv6", layers=1, width=64, ranks={"Rm": 3})
    slices = [matrix for matrix in checkpoint.logical_matrices() if matrix.source == "blocks.0.att.time_maa_w2"]
    assert [(m.name, m.shape, m.layer) for m in slices] == [(f"blocks.0.att.time_maa_w2.{i}", (64, 3), 0) for i in range(5)]
    x = torch.randn(5, 2, 3)
    by_definition = torch.bmm(x, state_dict["blocks.0.att.time_maa_w2"]).numpy()  # as the RWKV-6 forward does it
    products = np.stack([x[m.index].numpy() @ checkpoint.read_matrix(m.name).T for m in slices])
    np.testing.assert_allclose(products, by_definition, atol=1e-6)


def test_the_hash_is_that_of_the_file() -> None:
    path = DATA / "rwkv7-tiny.pth"
    assert open_checkpoint(path).sha256() == hashlib.sha256(path.read_bytes()).hexdigest()


def test_values_that_are_not_finite_are_named_with_the_file(tmp_path: Path) -> None:
    state_dict = random_state_dict("rwkv7", layers=1)
    state_dict["blocks.0.ffn.key.weight"][3, 5] = float("nan")
    checkpoint = open_checkpoint(write_pth(tmp_path / "a.pth", state_dict))
    with pytest.raises(CheckpointError, match=r"a\.pth: weights must be finite; blocks\.0\.ffn\.key\.weight has 1 NaN or infinite"):
        checkpoint.read_matrix("blocks.0.ffn.key.weight")


@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_the_summary_counts_every_parameter_once(tmp_path: Path, arch: str) -> None:
    checkpoint, state_dict = checkpoint_of(tmp_path, arch, dtype=torch.bfloat16)
    summary = json.loads(json.dumps(checkpoint.summary(), allow_nan=False))
    total = sum(tensor.numel() for tensor in state_dict.values())
    assert summary["parameters"] == total == sum(summary["parameters_by_role"].values())
    assert summary["parameters_by_dtype"] == {"bfloat16": total} and summary["dtype"] == "bfloat16"
    assert summary["parameters_by_role"].get("unused", 0) == (
        sum(state_dict[f"blocks.0.att.v{i}"].numel() for i in range(3)) if arch == "rwkv7" else 0
    )
    assert summary["parameters_by_role"]["embedding"] == state_dict["emb.weight"].numel()
    assert summary["bits_per_weight"] == summary["bits_per_weight_projections"] == 16
    assert summary["file_bytes"] == checkpoint.path.stat().st_size
    assert {row["name"]: tuple(row["shape"]) for row in summary["tensors"]} == {name: tuple(t.shape) for name, t in state_dict.items()}
    assert summary["dims"]["head_size"] == 16 and summary["arch"] == arch


def test_the_summary_weighs_mixed_dtypes(tmp_path: Path) -> None:
    state_dict = random_state_dict("rwkv7", layers=1)
    state_dict = {name: tensor.half() if name.endswith("ffn.key.weight") else tensor for name, tensor in state_dict.items()}
    summary = open_checkpoint(write_pth(tmp_path / "a.pth", state_dict)).summary()
    halves, projections = 4 * 64 * 64, (4 + 4 + 4) * 64 * 64
    assert summary["bits_per_weight_projections"] == 32 - 16 * halves / projections
    assert summary["dtype"] == "float32, float16"


FOREIGN = {
    "an empty file": b"",
    "neither a zip": b"Once upon a time there was a text.\n",
    "a ggml file": b"fmgg" + bytes(100),
    "a tar file": bytes(257) + b"ustar" + bytes(300),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_other_files_are_refused_for_what_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(FOREIGN[kind])
    with pytest.raises(CheckpointError, match=rf"a\.pth: this is {kind}.*; a checkpoint is a \.pth that torch\.save wrote"):
        open_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0d71\nsize 19332096\n", "git lfs pull"),
        (b"\n<!DOCTYPE html>\n<html lang=en>", "this is a web page"),
        (b"<HTML><body>Sign in</body></HTML>", "this is a web page"),
    ],
)
def test_every_reader_names_a_file_saved_in_place_of_a_download(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    for read in (open_checkpoint, open_packed, lambda path: load_tokenizer(path, 300)):
        with pytest.raises(RwkvQuantError, match=message):
            read(path)


def test_bare_pickles_are_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "a.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"this is a bare pickle \(torch before 1\.6\)"):
        open_checkpoint(tmp_path / "a.pth")


def test_paths_that_are_no_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="this directory has no checkpoint"):
        open_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"nowhere\.pth: there is no such file"):
        open_checkpoint(tmp_path / "nowhere.pth")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="not a regular file"):
        open_checkpoint(tmp_path / "pipe")


def test_a_checkpoint_of_another_architecture_is_refused_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.pth: no tensor here has a name of an RWKV checkpoint"):
        open_checkpoint(write_pth(tmp_path / "a.pth", {"wte.weight": torch.zeros(3, 3)}))


# VmHWM, not getrusage's ru_maxrss: that one begins with the peak of the parent process.
REPORT = """
import re, sys
from rwkvquant.checkpoints import open_checkpoint
checkpoint = open_checkpoint(sys.argv[1])
checkpoint.summary()
peak = int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
print(checkpoint.dims.width, peak, "torch" in sys.modules)
"""


def test_a_3_gb_checkpoint_opens_in_little_memory_and_without_torch(tmp_path: Path) -> None:
    sizes = {"C": 2048, "F": 8192, "V": 65536, "H": 32, "N": 64, "Rw": 96, "Ra": 96, "Rv": 64, "Rg": 256}
    state_dict = {}
    for layer in range(-1, 24):
        for spec in ARCHITECTURES["rwkv7"].outside if layer < 0 else ARCHITECTURES["rwkv7"].table:
            if not spec.optional and (spec.layers != "first" or layer == 0):
                shape = [size if isinstance(size, int) else sizes[size] for size in spec.shape]
                state_dict[spec.name if layer < 0 else f"blocks.{layer}.{spec.name}"] = torch.empty(shape, dtype=torch.bfloat16)
    with torch.serialization.skip_data():  # a sparse file: 3 GB of weights that take no disk space
        torch.save(state_dict, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size > 3e9
    printed = subprocess.run([sys.executable, "-c", REPORT, tmp_path / "a.pth"], capture_output=True, text=True, check=True).stdout.split()
    width, peak, torch_imported = printed
    assert (width, torch_imported) == ("2048", "False")
    assert int(peak) < 300e6
