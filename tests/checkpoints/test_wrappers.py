"""What training tools put around a checkpoint is removed. Adapters, and files with two models, are refused by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.checkpoints.wrappers import bare_names
from rwkvquant.errors import CheckpointError
from tests.checkpoints.layouts import LAYOUTS, Tensors, fla_rwkv7, write_safetensors
from tests.helpers import random_state_dict, write_pth

SMALL = {"layers": 2, "width": 32, "head_size": 8}
PREFIXES = ["module.", "_orig_mod.", "_forward_module.", "base_model.model.", "module._orig_mod.", "_orig_mod.module.", "net.", "model."]
PREFIXES += ["base_model.model.model.", "module.base_model.model._orig_mod.", "trainer.model.", "_forward_module.model."]


def renamed(tensors: Tensors, change: Callable[[str], str]) -> Tensors:
    return {change(name): tensor for name, tensor in tensors.items()}


def assert_same(path: Path, original: Tensors) -> None:
    checkpoint = open_checkpoint(path)
    assert checkpoint.tensors.keys() == original.keys()
    for name, tensor in original.items():
        assert np.array_equal(checkpoint.read(name), tensor.float().numpy()), name


@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_prefix_of_all_names_is_removed(tmp_path: Path, prefix: str) -> None:
    original = random_state_dict("rwkv7", **SMALL)
    wrapped = renamed(original, lambda name: prefix + name)
    assert_same(write_pth(tmp_path / "a.pth", wrapped), original)
    assert_same(write_safetensors(tmp_path / "a.safetensors", wrapped), original)


@pytest.mark.parametrize("word", ["_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
def test_the_words_of_wrappers_inside_names_are_removed(tmp_path: Path, word: str) -> None:
    original = random_state_dict("rwkv6", **SMALL)
    wrapped = renamed(original, lambda name: name.replace("blocks.1.", f"blocks.1.{word}."))
    assert wrapped != original
    assert_same(write_pth(tmp_path / "a.pth", wrapped), original)


@pytest.mark.parametrize(("arch", "layout"), [(arch, layout) for arch, layouts in LAYOUTS.items() for layout in layouts])
def test_every_layout_may_be_wrapped(tmp_path: Path, arch: str, layout: str) -> None:
    tensors = LAYOUTS[arch][layout](random_state_dict(arch, dtype=torch.float16, ranks=dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 5)))
    plain = open_checkpoint(write_safetensors(tmp_path / "plain.st", tensors))
    wrapped = open_checkpoint(write_safetensors(tmp_path / "wrapped.st", renamed(tensors, lambda name: f"module.model.{name}")))
    assert (wrapped.arch, wrapped.dims, wrapped.layout) == (plain.arch, plain.dims, plain.layout)
    for name in plain.tensors:
        assert np.array_equal(plain.read(name), wrapped.read(name)), name


def test_names_without_wrappers_do_not_change() -> None:
    names = list(fla_rwkv7(random_state_dict("rwkv7", **SMALL)))
    assert bare_names(names) == names
    assert bare_names(["module_.x", "a_module.y"]) == ["module_.x", "a_module.y"]


def test_two_names_that_become_one_are_refused(tmp_path: Path) -> None:
    original = random_state_dict("rwkv7", **SMALL)
    path = write_pth(tmp_path / "a.pth", original | {"module.emb.weight": original["emb.weight"]})
    with pytest.raises(CheckpointError, match=r"emb\.weight and module\.emb\.weight are both emb\.weight"):
        open_checkpoint(path)


def optimizer_state(tensors: Tensors) -> dict:
    module = torch.nn.ParameterList(torch.nn.Parameter(tensor) for tensor in tensors.values())
    optimizer = torch.optim.AdamW(module, lr=1e-3)
    sum((parameter**2).sum() for parameter in module).backward()
    optimizer.step()
    return optimizer.state_dict()


def nests(original: Tensors) -> dict[str, dict]:
    lightning = {"state_dict": renamed(original, lambda name: f"model.{name}"), "epoch": 3, "callbacks": {"best": {"score": float("inf")}}}
    deepspeed = {"module": original, "ds_version": "0.15", "param_shapes": [{"emb.weight": torch.Size([3, 4])}], "optimizer": None}
    training = {"model": original, "optimizer": optimizer_state(original), "rng": torch.zeros(8, dtype=torch.uint8), "loss": 0.5}
    return {
        "Lightning": lightning,
        "DeepSpeed": deepspeed,
        "a training script": training,
        "two dicts deep": {"checkpoint": {"model": original, "step": 3}},
        "one model under two keys": {"model": original, "latest": original},
    }


@pytest.mark.parametrize("kind", nests({"x": torch.zeros(1)}))
def test_a_dict_around_the_tensors_is_removed(tmp_path: Path, kind: str) -> None:
    original = random_state_dict("rwkv7", **SMALL)
    torch.save(nests(original)[kind], tmp_path / "a.pth")
    assert_same(tmp_path / "a.pth", original)


def test_two_models_in_one_file_are_refused_by_their_keys(tmp_path: Path) -> None:
    original = random_state_dict("rwkv7", **SMALL)
    torch.save({"model": original, "more": {"ema": dict(original)}}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=r"a\.pth: 2 dicts in this file hold something like a model \(model, more\.ema\)"):
        open_checkpoint(tmp_path / "a.pth")


def test_a_dict_that_holds_itself_is_searched_once(tmp_path: Path) -> None:
    endless: dict = {"x": {}}
    endless["x"]["again"] = endless
    torch.save(endless, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="here 'x' is a dict"):
        open_checkpoint(tmp_path / "a.pth")


ADAPTERS = ["blocks.0.att.key.lora_A", "base_model.model.blocks.0.att.key.lora_B.default.weight", "blocks.0.ffn.key.bone"]
ADAPTERS += ["blocks.3.att.value.disha", "model.layers.0.attn.r_proj.lora_magnitude_vector"]


@pytest.mark.parametrize("name", ADAPTERS)
@pytest.mark.parametrize("with_model", [False, True])
def test_an_adapter_is_refused_with_that_reason(tmp_path: Path, name: str, with_model: bool) -> None:
    tensors = (random_state_dict("rwkv7", **SMALL) if with_model else {}) | {name: torch.zeros(8, 32)}
    for path in (write_pth(tmp_path / "a.pth", tensors), write_safetensors(tmp_path / "a.safetensors", tensors)):
        with pytest.raises(CheckpointError, match=rf"holds an adapter \(\w+, as in {name}\).*merge it into its model first"):
            open_checkpoint(path)


def test_a_directory_with_an_adapter_is_refused_with_that_reason(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="this directory holds an adapter"):
        open_checkpoint(tmp_path)
