"""One model in every layout: the same tensors, and so the same logits."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import rwkvquant
from rwkvquant.architectures import ARCHITECTURES, Role
from rwkvquant.checkpoints import Checkpoint, TensorInfo, TokenizerFiles, open_checkpoint
from rwkvquant.checkpoints.names import NAME_TABLES
from rwkvquant.checkpoints.translate import TranslatedFile
from rwkvquant.errors import CheckpointError, RwkvQuantError
from tests.checkpoints.layouts import LAYOUTS, fla_rwkv7, hf_rwkv6, hf_rwkv7, prefixed, web_rwkv, write_directory, write_safetensors
from tests.helpers import random_state_dict, write_pth

DATA = Path(__file__).parents[1] / "data"
TRAINED = {"rwkv7": DATA / "rwkv7-tiny.pth", "rwkv6": DATA / "rwkv6-8m.pth"}
CASES = [(arch, layout) for arch, layouts in LAYOUTS.items() for layout in layouts]
TOKENS = [0, 7, 99, 3, 41, 7]
UNUSED = {f"blocks.0.att.v{i}" for i in range(3)}


def half_state_dict(arch: str, **options: object) -> dict[str, torch.Tensor]:
    """Values that fp16 holds exactly, so that web-rwkv's files lose nothing. No two sizes or ranks are equal."""
    ranks = {"Rw": 5, "Ra": 7, "Rv": 11, "Rg": 13, "Rm": 3, "Rd": 17}
    return random_state_dict(arch, **{"layers": 3, "width": 48, "hidden": 100, "ranks": ranks, "dtype": torch.float16, **options})


def logits(path: Path) -> np.ndarray:
    return rwkvquant.load(path, threads=1).forward(TOKENS, logits="all")[0]


@pytest.mark.parametrize(("arch", "layout"), CASES)
def test_every_tensor_arrives_under_our_name_and_shape(tmp_path: Path, arch: str, layout: str) -> None:
    original = half_state_dict(arch, time_state=layout in ("blinkdl", "web-rwkv"))
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "a.safetensors", LAYOUTS[arch][layout](original)))
    assert checkpoint.arch == arch and checkpoint.tensors.keys() | UNUSED == original.keys() | UNUSED
    for name, info in checkpoint.tensors.items():
        values = checkpoint.read(name)
        assert info.shape == values.shape == tuple(original[name].shape) and info.name == name
        np.testing.assert_array_equal(values, original[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize(("arch", "layout"), CASES)
def test_a_trained_model_gives_the_same_logits_in_every_layout(tmp_path: Path, arch: str, layout: str) -> None:
    original = torch.load(TRAINED[arch], weights_only=True)
    path = write_directory(tmp_path / "model", LAYOUTS[arch][layout](original))
    np.testing.assert_array_equal(logits(path), logits(TRAINED[arch]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_dtype_of_safetensors_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    original = random_state_dict("rwkv7", layers=1, dtype=dtype)
    checkpoint = open_checkpoint(write_safetensors(tmp_path / "a.safetensors", original))
    for name, tensor in original.items():
        assert f"torch.{checkpoint.tensors[name].dtype}" == str(dtype)
        np.testing.assert_array_equal(checkpoint.read(name), tensor.float().numpy(), err_msg=name)


@pytest.mark.parametrize(("stem", "ending"), [("model", "safetensors"), ("pytorch_model", "bin")])
@pytest.mark.parametrize("shards", [1, 2, 5])
def test_shards_and_whole_files_of_a_directory_are_one_model(tmp_path: Path, shards: int, stem: str, ending: str) -> None:
    original = half_state_dict("rwkv6")
    path = write_directory(tmp_path / "model", hf_rwkv6(original), shards, stem=stem, ending=ending)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == ("safetensors" if ending == "safetensors" else "pth") and checkpoint.layout == "hf"
    np.testing.assert_array_equal(logits(path), logits(write_pth(tmp_path / "a.pth", original)))
    weights = sum(file.stat().st_size for file in path.glob(f"{stem}*"))
    assert checkpoint.summary()["file_bytes"] == weights
    if shards > 1:
        assert open_checkpoint(path / f"{stem}.{ending}.index.json").sha256() == checkpoint.sha256()


def test_names_and_shapes_decide_the_layout_not_the_ending(tmp_path: Path) -> None:
    original = half_state_dict("rwkv7")
    web = write_pth(tmp_path / "web.pth", web_rwkv(original))
    plain = write_safetensors(tmp_path / "plain.st", original)
    fla = write_pth(tmp_path / "fla.pth", fla_rwkv7(original))
    assert [open_checkpoint(path).layout for path in (web, plain, fla)] == ["web-rwkv", "blinkdl", "fla"]
    assert [open_checkpoint(path).format for path in (web, plain, fla)] == ["pth", "safetensors", "pth"]
    for path in (plain, fla):
        np.testing.assert_array_equal(logits(path), logits(web))


def test_the_hash_of_shards_covers_every_file(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model", half_state_dict("rwkv7"), 3)
    before = open_checkpoint(path).sha256()
    last = sorted(path.glob("*.safetensors"))[-1]
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    assert open_checkpoint(path).sha256() != before


def test_a_directory_brings_its_tokenizer(tmp_path: Path) -> None:
    original = half_state_dict("rwkv7", vocab=4096)
    assert open_checkpoint(write_directory(tmp_path / "without", original)).tokenizer is None
    path = write_directory(tmp_path / "with", original, vocabulary=DATA / "tokenizer.json")
    assert open_checkpoint(path).tokenizer == TokenizerFiles((path / "tokenizer.json",), own=True)
    text = "The old man and the sea."
    model = rwkvquant.load(path, threads=1)
    assert model.tokenizer.decode(model.tokenizer.encode(text)) == text and len(model.tokenizer.encode(text)) < len(text) / 2


def test_square_lora_factors_are_blinkdls_in_a_pth_and_after_a_prefix_and_else_refused(tmp_path: Path) -> None:
    original = half_state_dict("rwkv7", ranks=dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 48))
    assert open_checkpoint(write_pth(tmp_path / "a.pth", original)).layout == "blinkdl"
    assert open_checkpoint(write_safetensors(tmp_path / "hf.st", hf_rwkv7(original))).layout == "blinkdl"
    with pytest.raises(CheckpointError, match=r"a\.st: BlinkDL's layout and web-rwkv's .* blocks\.0\.att\.\w1 .* are square"):
        open_checkpoint(write_safetensors(tmp_path / "a.st", original))
    one_is_enough = half_state_dict("rwkv7", ranks={"Rw": 48, "Ra": 48, "Rv": 48, "Rg": 47})
    assert open_checkpoint(write_safetensors(tmp_path / "b.st", web_rwkv(one_is_enough))).layout == "web-rwkv"


@pytest.mark.parametrize(("name", "arch"), NAME_TABLES)
def test_tables_name_tensors_that_exist_and_use_no_name_twice_for_one_conversion(name: str, arch: str) -> None:
    layout = NAME_TABLES[name, arch]
    tensors = {key for key, spec in ARCHITECTURES[arch].by_key.items() if spec.role is not Role.SETTING}  # of a config, no tensors there
    assert set(layout.places) | {"att.time_state"} == tensors | {"att.time_state"}
    stored = [(place.name, place.conversion.order) for place in layout.places.values()]
    assert len(set(stored)) == len(stored)


def test_names_of_two_layouts_are_refused(tmp_path: Path) -> None:
    original = half_state_dict("rwkv7")
    fla = fla_rwkv7(original)
    mixed = {name: tensor for name, tensor in fla.items() if ".layers.2." not in name}
    mixed |= {name: tensor for name, tensor in original.items() if name.startswith("blocks.2.")}
    with pytest.raises(CheckpointError, match=r"a\.st: all names .* must be of one layout; blocks\.2\.\S+ is of BlinkDL, and model\."):
        open_checkpoint(write_safetensors(tmp_path / "a.st", mixed))
    half_prefixed = original | prefixed("model.")({name: t for name, t in original.items() if name.startswith("blocks.1.")})
    with pytest.raises(CheckpointError, match="of one layout"):
        open_checkpoint(write_safetensors(tmp_path / "a.st", half_prefixed))
    twice = prefixed("model.")(original) | {"model.head.weight": original["head.weight"]}
    with pytest.raises(CheckpointError, match=r"two tensors of the file mean head\.weight: head\.weight and model\.head\.weight"):
        open_checkpoint(write_safetensors(tmp_path / "a.st", twice))


@pytest.mark.parametrize("layout", ["fla", "prefix model", "web-rwkv"])
def test_a_misspelt_name_is_named_as_the_file_has_it(tmp_path: Path, layout: str) -> None:
    tensors = LAYOUTS["rwkv7"][layout](half_state_dict("rwkv7"))
    right = next(name for name in tensors if name.endswith(("1.att.w1", "1.attn.w_lora.lora.0.weight")))
    wrong = right.replace("att", "atn", 1)
    tensors[wrong] = tensors.pop(right)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(write_safetensors(tmp_path / "a.st", tensors))
    said = str(caught.value)
    assert "a.st: the checkpoint lacks blocks.1.att.w1, which" in said and right in said and f"is {wrong} a misspelling of it?" in said


def test_a_wrong_shape_is_named_as_the_file_has_it(tmp_path: Path) -> None:
    tensors = fla_rwkv7(half_state_dict("rwkv7"))
    name = "model.layers.1.attn.w_lora.lora.0.weight"
    for shape, message in [((5, 47), "C = 48 as in emb.weight.*; got \\(47, 5\\)"), ((48, 5), "got \\(5, 48\\)")]:
        with pytest.raises(
            CheckpointError, match=rf"a\.st: blocks\.1\.att\.w1 must have the shape \(C, Rw\), .*{message} \({name} in the names"
        ):
            open_checkpoint(write_safetensors(tmp_path / "a.st", tensors | {name: torch.zeros(shape)}))
    with pytest.raises(
        CheckpointError,
        match=r"model\.layers\.1\.attn\.k_k, which is blocks\.1\.att\.k_k in .* fla, cannot have the shape \(6, 8\)",
    ):
        open_checkpoint(write_safetensors(tmp_path / "a.st", tensors | {"model.layers.1.attn.k_k": torch.zeros(6, 8)}))


class Claims:
    """A file that has only a header."""

    format = "safetensors"
    written_as = "blinkdl"

    def __init__(self, tensors: dict[str, TensorInfo]) -> None:
        self.tensors = tensors

    def read(self, name: str) -> np.ndarray:
        raise AssertionError("nothing is read before it is asked for")


def test_shapes_are_translated_without_memory() -> None:
    """The reader has checked the sizes in a header against the file. Translation must not allocate arrays of these sizes."""
    tensors = {f"model.layers.0.attn.{name}": (1 << 40, 1 << 20) for name in ("w_lora.lora.0.weight", "r_proj.weight", "r_k")}
    tensors |= {"model.embeddings.weight": (1 << 40, 1 << 20), "model.layers.0.attn.k_k": (1 << 50,)}
    file = TranslatedFile(Claims({name: TensorInfo(name, "float16", shape) for name, shape in tensors.items()}))
    assert file.tensors["blocks.0.att.w1"].shape == (1 << 20, 1 << 40) and file.tensors["blocks.0.att.k_k"].shape == (1, 1, 1 << 50)


@pytest.mark.parametrize(("arch", "layout"), CASES)
def test_wrong_shapes_and_names_of_any_kind_are_refused_in_a_sentence(arch: str, layout: str) -> None:
    original = LAYOUTS[arch][layout](half_state_dict(arch, layers=2))
    good = {name: TensorInfo(name, "float16", tuple(tensor.shape)) for name, tensor in original.items()}
    chooser = random.Random(0)

    def refused(tensors: dict[str, TensorInfo]) -> bool:
        try:
            Checkpoint(Path("a.st"), TranslatedFile(Claims(tensors)), [])
        except CheckpointError as error:
            return len(str(error)) < 600
        return False

    assert not refused(good)
    once = {re.sub(r"\b[01]\b", "", name, count=1): name for name in good}  # of both layers the second; and what only the first has
    for name, info in ((name, good[name]) for name in once.values()):
        shapes = [(1,), (5,), info.shape[1:], (*info.shape, 2), (2, *info.shape), tuple(n + 1 for n in info.shape), info.shape[:1] * 8]
        shapes.append((2, math.prod(info.shape) // 2))  # for most, as many values as there should be
        for shape in {*shapes} - {info.shape, ()}:  # readers refuse a tensor without axes
            wrong = TensorInfo(name, "float16", shape)
            # A vector may come with any axes of length 1, and layer 0 may lack v.
            same_vector = sorted(n for n in shape if n > 1) == sorted(n for n in info.shape if n > 1) and max(info.shape) == math.prod(
                info.shape
            )
            assert refused(good | {name: wrong}) or same_vector, (name, shape)
        renamed = chooser.choice([name + "x", "x" + name, name.upper(), name.replace("0", "٠"), name.replace(".0.", ".00."), "blocks"])
        changed = {renamed if other == name else other: info for other, info in good.items()}
        assert refused(changed) or renamed == name


def test_bad_indexes_are_refused_in_a_sentence(tmp_path: Path) -> None:
    path = write_directory(tmp_path / "model", half_state_dict("rwkv7"), 2)
    file = path / "model.safetensors.index.json"
    good = json.loads(file.read_text())
    first, second = sorted(set(good["weight_map"].values()))
    name = next(name for name, shard in good["weight_map"].items() if shard == first)

    def refused(weight_map: object, match: str) -> None:
        file.write_text(json.dumps({"weight_map": weight_map}))
        with pytest.raises(CheckpointError, match=rf"model: .*{match}"):
            open_checkpoint(path)

    right = good["weight_map"]
    refused(right | {"blocks.9.ghost": first}, rf"says that blocks\.9\.ghost is in {first}, but it is not")
    refused(right | {name: second}, rf"says that {name} is in {second}, but it is not")
    refused(
        {other: shard for other, shard in right.items() if other != name}, rf"{first} holds {name}, but model\.safetensors\.index\.json"
    )
    refused(right | {name: "model-00003-of-00003.safetensors"}, r"shard model-00003-of-00003\.safetensors, which \S+ names, is missing")
    refused({}, '"weight_map"')
    refused([name], '"weight_map"')
    refused(right | {name: 7}, "without a path")
    refused(right | {name: file.name}, "a shard must hold weights; this is a JSON file")
    file.write_text('{"weight_map": {"a": "b", "a": "c"}}')
    with pytest.raises(CheckpointError, match="'a' is there twice"):
        open_checkpoint(path)
    file.write_text("{" * 100_000)
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        open_checkpoint(path)
    (path / second).unlink()
    refused(right, f"the shard {second}, which model.safetensors.index.json names, is missing")


@pytest.mark.parametrize(
    "shard", ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "..\\secret", "C:secret", ".hidden", ""]
)
def test_an_index_cannot_lead_out_of_its_directory(tmp_path: Path, shard: str) -> None:
    original = half_state_dict("rwkv7")
    write_safetensors(tmp_path / "secret.safetensors", original)
    path = write_directory(tmp_path / "model", original, 2)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(original, shard)}))
    with pytest.raises(CheckpointError, match=r"may only name files in its own folder, without a path"):
        open_checkpoint(path)


def test_directories_with_two_checkpoints_or_none_are_refused(tmp_path: Path) -> None:
    original = half_state_dict("rwkv7")
    path = write_directory(tmp_path / "both", original, 2)
    write_safetensors(path / "model.safetensors", original)
    with pytest.raises(CheckpointError, match=r"has model\.safetensors and model\.safetensors\.index\.json; give the path"):
        open_checkpoint(path)
    (tmp_path / "other").mkdir()
    write_pth(tmp_path / "other" / "somewhere.pth", original)
    with pytest.raises(CheckpointError, match=r"this directory has no checkpoint .*; give the path of a file: .*/other/somewhere\.pth$"):
        open_checkpoint(tmp_path / "other")
    for name in "abc":
        (tmp_path / "other" / f"{name}.gguf").touch()
    with pytest.raises(CheckpointError, match=r"of a file: .*/a\.gguf, .*/b\.gguf, .*/c\.gguf, \.\.\.$"):
        open_checkpoint(tmp_path / "other")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"give the path of a file$"):
        open_checkpoint(tmp_path / "empty")


def test_a_packed_file_is_not_a_checkpoint() -> None:
    with pytest.raises(CheckpointError, match="this is a file packed by rwkvquant, not a checkpoint"):
        open_checkpoint(DATA / "rwkv7-tiny-rtn4.safetensors")


@pytest.mark.parametrize("checksum_first", [False, True])
def test_a_packed_file_that_another_tool_wrote_again_is_refused_with_that_reason(tmp_path: Path, checksum_first: bool) -> None:
    """The safetensors package writes the metadata in an order that changes from run to run."""
    content = (DATA / "rwkv7-tiny-rtn4.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = dict(sorted(header.pop("__metadata__").items(), key=lambda item: (item[0] == "header_crc32") != checksum_first))
    text = json.dumps({"__metadata__": metadata, **dict(reversed(header.items()))}, separators=(",", ":")).encode()
    again = tmp_path / "again.safetensors"
    for padding in range(0, 64, 8):
        padded = text + b" " * (-len(text) % 8 + padding)
        again.write_bytes(len(padded).to_bytes(8, "little") + padded + content[start:])
        with pytest.raises(RwkvQuantError, match=r"another tool (has written the file|wrote it) again.*use the original file"):
            rwkvquant.load(again)
