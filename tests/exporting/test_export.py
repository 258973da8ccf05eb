"""What `export` writes agrees with the other tool's own description of its layout, and we can read it again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import rwkvquant
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.values import as_float32, as_stored
from rwkvquant.errors import CheckpointError, ConfigError, RwkvQuantError
from rwkvquant.exporting import layouts as module
from rwkvquant.exporting.layouts import export
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.tokenizer_data import TokenizerData
from tests.checkpoints.layouts import fla_rwkv6, fla_rwkv7, hf_rwkv6, prefixed, web_rwkv
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint

DATA = Path(__file__).parents[1] / "data"
TOKENIZER = TokenizerData("bytes", {"size": 256}, {})
BY_HAND = {
    ("rwkv7", "pth"): dict,
    ("rwkv7", "safetensors"): dict,
    ("rwkv7", "hf"): prefixed("model."),
    ("rwkv7", "fla"): fla_rwkv7,
    ("rwkv7", "web-rwkv"): web_rwkv,
    ("rwkv6", "pth"): dict,
    ("rwkv6", "safetensors"): dict,
    ("rwkv6", "hf"): hf_rwkv6,
    ("rwkv6", "fla"): fla_rwkv6,
    ("rwkv6", "web-rwkv"): web_rwkv,
}
TOKENS = [0, 7, 99, 3, 41, 7]


def packed_of(tmp_path: Path, arch: str, **options: object) -> tuple[Path, dict[str, torch.Tensor]]:
    """A packed file in full precision, and its tensors. No two sizes or ranks are equal."""
    ranks = {"Rw": 5, "Ra": 7, "Rv": 11, "Rg": 13, "Rm": 3, "Rd": 17}
    sizes = {"layers": 2, "width": 48, "hidden": 100, "ranks": ranks, "dtype": torch.float16, "first_layer_v": False}
    state_dict = random_state_dict(arch, **{**sizes, **options})
    packed = pack_checkpoint(write_pth(tmp_path / "source.pth", state_dict), tmp_path / "packed.safetensors", TOKENIZER)
    return packed, state_dict


def read(path: Path) -> dict[str, torch.Tensor]:
    """As other tools read it: by the safetensors package, or by torch."""
    if path.is_dir():
        return load_file(path / "model.safetensors")
    return load_file(path) if path.suffix != ".pth" else torch.load(path, weights_only=True)


@pytest.mark.parametrize(("arch", "layout"), BY_HAND)
def test_every_layout_agrees_with_its_description(tmp_path: Path, arch: str, layout: str) -> None:
    packed, state_dict = packed_of(tmp_path, arch)
    output = tmp_path / ("out.pth" if layout == "pth" else "out")
    result = export(str(packed), str(output), layout=layout)
    written, expected = read(output), BY_HAND[arch, layout](state_dict)
    assert written.keys() == expected.keys() and result.tensors == len(written)
    for name, tensor in expected.items():
        assert written[name].dtype == torch.float16 and torch.equal(written[name], tensor), name
    assert result.file_bytes == sum(file.stat().st_size for file in ([output] if output.is_file() else output.iterdir()))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
@pytest.mark.parametrize(("arch", "layout"), BY_HAND)
def test_an_exported_model_is_a_checkpoint_again(tmp_path: Path, arch: str, layout: str, dtype: str) -> None:
    if layout == "web-rwkv" and dtype != "fp16":
        with pytest.raises(ConfigError, match="web-rwkv reads fp16 only"):
            export("packed", str(tmp_path / "out"), dtype, layout)
        return
    packed, _ = packed_of(tmp_path, arch)
    for form, path in [("pth", tmp_path / "plain.pth"), (layout, tmp_path / "out")]:
        export(str(packed), str(path), dtype, form)
    there, back = open_checkpoint(tmp_path / "plain.pth"), open_checkpoint(tmp_path / "out")
    assert back.tensors == there.tensors and back.dims == there.dims
    for name in there.tensors:
        np.testing.assert_array_equal(back.read(name), there.read(name), err_msg=name)


@pytest.mark.parametrize(("arch", "layout"), BY_HAND)
def test_square_lora_factors_are_read_again_unchanged(tmp_path: Path, arch: str, layout: str) -> None:
    """Shapes do not show whether a square matrix is transposed; the file's metadata does."""
    packed, state_dict = packed_of(tmp_path, arch, ranks=dict.fromkeys(("Rw", "Ra", "Rv", "Rg", "Rm", "Rd"), 48))
    export(str(packed), str(tmp_path / "out"), layout=layout)
    again = open_checkpoint(tmp_path / "out")
    for name, tensor in state_dict.items():
        assert np.array_equal(again.read(name), tensor.float().numpy()), name


@pytest.mark.parametrize("layout", ["pth", "safetensors", "hf", "fla", "web-rwkv"])
def test_a_quantised_model_keeps_its_logits(tmp_path: Path, layout: str) -> None:
    """Up to the rounding of fp16, which the first export's .pth has too."""
    packed = DATA / "rwkv6-8m-gptq.safetensors"
    export(str(packed), str(tmp_path / "plain.pth"))
    export(str(packed), str(tmp_path / "out"), layout=layout)
    plain, out = (rwkvquant.load(tmp_path / name, threads=1).forward(TOKENS, logits="all")[0] for name in ("plain.pth", "out"))
    np.testing.assert_array_equal(out, plain)
    original = rwkvquant.load(packed, threads=1, activations="float32").forward(TOKENS, logits="all")[0]
    assert np.abs(out - original).max() < 0.05


@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
@pytest.mark.parametrize("layout", ["hf", "fla"])
def test_a_config_has_the_sizes(tmp_path: Path, arch: str, layout: str) -> None:
    packed, _ = packed_of(tmp_path, arch)
    export(str(packed), str(tmp_path / "out"), "bf16", layout)
    config, dims = json.loads((tmp_path / "out" / "config.json").read_text()), open_packed(packed).dims
    assert config["model_type"] == arch and config["torch_dtype"] == "bfloat16"
    assert config["architectures"] == [{"hf": arch.capitalize(), "fla": arch.upper()}[layout] + "ForCausalLM"]
    written = [config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size")]
    assert written == [dims.layers, dims.width, dims.hidden, dims.vocab]
    ranks = {config[key] for key in config if key.endswith("low_rank_dim")}
    assert ranks == (set() if (layout, arch) == ("hf", "rwkv6") else set(dims.ranks.values()))


def test_a_tuned_state_is_written_in_layouts_that_have_a_name_for_it(tmp_path: Path) -> None:
    packed, state_dict = packed_of(tmp_path, "rwkv7", time_state=True)
    export(str(packed), str(tmp_path / "out.st"), layout="web-rwkv")
    name = "blocks.1.att.time_state"
    assert torch.equal(load_file(tmp_path / "out.st")[name], state_dict[name].transpose(1, 2))
    with pytest.raises(ConfigError, match=r"the layout fla has no name for blocks\.0\.att\.time_state; try --layout pth"):
        export(str(packed), str(tmp_path / "out"), layout="fla")
    assert not (tmp_path / "out").exists()


def test_an_output_in_the_way_is_not_touched(tmp_path: Path) -> None:
    packed, _ = packed_of(tmp_path, "rwkv7")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"needs a new directory; .* exists already"):
        export(str(packed), str(tmp_path / "mine"), layout="hf")
    with pytest.raises(ConfigError, match="layout must be one of pth, safetensors, web-rwkv, gguf, hf, fla; got onnx"):
        export(str(packed), str(tmp_path / "out"), layout="onnx")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("layout", ["safetensors", "hf"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    packed, _ = packed_of(tmp_path, "rwkv7")
    before = sorted(tmp_path.iterdir())

    def half(out: BinaryIO, *_: object) -> None:
        out.write(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_safetensors", half)
    with pytest.raises(RwkvQuantError, match=r"/out(/model\.safetensors)? could not be written: the disk is full"):
        export(str(packed), str(tmp_path / "out"), layout=layout)
    assert sorted(tmp_path.iterdir()) == before


def test_numbers_are_rounded_as_torch_rounds_them() -> None:
    """Every upper half of a float32, with lower halves below, at and above the tie."""
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << 16
    values = (upper + np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)).view(np.float32).reshape(-1)
    for dtype, to in (("bfloat16", torch.bfloat16), ("float16", torch.float16)):
        expected = torch.from_numpy(values).to(to).float().numpy()
        inside = np.isfinite(expected)
        stored = as_stored("x", values[inside], dtype)
        np.testing.assert_array_equal(as_float32("x", stored, dtype), expected[inside])
        with pytest.raises(CheckpointError, match="x has 1 NaN or infinite"):
            as_stored("x", values[~inside & np.isfinite(values)][:1], dtype)
