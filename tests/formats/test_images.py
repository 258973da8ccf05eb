"""A packed model for images: settings in place of a tokenizer, heads that may be missing, and tensors that are carried along."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkvquant
from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter, open_packed, open_text_packed
from rwkvquant.formats.images import decode_image, encode_image
from rwkvquant.formats.tokenizer_data import TokenizerData
from tests.formats import examples
from tests.formats.test_hostile import take_apart, tensor, use_everything
from tests.fuzz.choices import Choices
from tests.fuzz.json_tree import mutate
from tests.fuzz.packed import put_together
from tests.vision import CARRIED, write_vrwkv

ROUNDS = 150
DIMS = Dims(2, 24, positions=12, classes=5)
SETTINGS = ImageSettings((2, 6), True, ("a", "b", "c", "d", "e\u00e4"), (1.0, 2.5), (3.0, 4.0))


def pack(folder: Path, **shape: Any) -> Path:
    request = rwkvquant.QuantizeRequest(method="rtn", code_bits=4)
    rwkvquant.quantize(write_vrwkv(folder, **shape), folder / "m.safetensors", request)
    return folder / "m.safetensors"


def test_settings_come_back() -> None:
    assert decode_image(encode_image(SETTINGS), DIMS) == SETTINGS
    assert encode_image(SETTINGS).isascii()
    more = json.loads(encode_image(SETTINGS)) | {"later": [1], "mean": [1, 2.5]}
    assert decode_image(json.dumps(more), DIMS) == SETTINGS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"grid": [3, 5]}, r"grid of image must be rows and columns of 12 positions; got \[3, 5\]"),
        ({"grid": [12]}, "rows and columns of 12"),
        ({"grid": [0, 12]}, "sizes of at least 1"),
        ({"grid": None}, "grid of image must be list"),
        ({"post_norm": 1}, "post_norm of image must be bool"),
        ({"classes": ["a"]}, "must be the names of 5 classes, or none; got 1"),
        ({"classes": ["a", "b", "c", "d", "e\x1b[2J"]}, "must be printable text"),
        ({"classes": ["a", "b", "c", "d", "e" * 201]}, "at most 200 characters"),
        ({"classes": [1, 2, 3, 4, 5]}, "must be printable text"),
        ({"mean": []}, "mean of image must be a list of 1 to 16 numbers"),
        ({"mean": [True, 1]}, "mean of image must be a list of 1 to 16 numbers"),
        ({"std": [1.0]}, "a number above 0 for each mean"),
        ({"std": [1.0, 0.0]}, "a number above 0 for each mean"),
    ],
)
def test_settings_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FormatError, match=message):
        decode_image(json.dumps(json.loads(encode_image(SETTINGS)) | change), DIMS)


@pytest.mark.parametrize("missing", ["grid", "post_norm", "classes", "mean", "std"])
def test_every_setting_must_be_there(missing: str) -> None:
    settings = json.loads(encode_image(SETTINGS))
    del settings[missing]
    with pytest.raises(FormatError, match=f"image has no {missing}"):
        decode_image(json.dumps(settings), DIMS)


def test_a_file_has_a_tokenizer_or_image_settings_as_its_modality_says(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "text.safetensors") as out:
        examples.add_model(out)
        rest: dict[str, Any] = {"model": {"arch": "rwkv7", "dims": Dims(1, 1)}, "quantization_config": {}, "provenance": {}}
        for kept in ({}, {"image": SETTINGS}, {"image": SETTINGS, "tokenizer": TokenizerData("bytes", {"size": 256})}):
            with pytest.raises(FormatError, match="a text model has a tokenizer, and a model for images has image settings"):
                out.finish(**rest, **kept)


def test_a_file_for_images_has_no_tokenizer(tmp_path: Path) -> None:
    path = pack(tmp_path)
    packed = open_packed(path)
    assert packed.image == ImageSettings((2, 6), False, tuple("abcde")) and packed.task == "classify"
    for use in (lambda: packed.tokenizer, lambda: open_text_packed(path)):
        with pytest.raises(FormatError, match=r"m\.safetensors: Vision-RWKV is a model for images, and this works with text models only"):
            use()


def test_what_is_carried_keeps_its_names_shapes_and_16_bits(tmp_path: Path) -> None:
    packed = open_packed(pack(tmp_path, carried=True))
    packed.verify()
    assert packed.task is None and packed.dims.classes == 0
    for name, values in CARRIED.items():
        entry = packed.tensors[name]
        assert entry.role == "carried" and entry.shape == tuple(values.shape) and not packed.uses(name)
        assert entry.layout == ("dense.f32" if name.startswith("neck") else "dense.f16")
        np.testing.assert_allclose(packed.decode(name), values.numpy(), rtol=2**-11)
    assert [row.weights for row in packed.ledger().rows() if row.label == "carried along"] == [sum(v.numel() for v in CARRIED.values())]


PATCHES, HEAD = "backbone.patch_embed.projection.weight", "head.fc.weight"
LIES: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no settings": (lambda m: m.pop("image"), "the metadata has no image"),
    "settings that are no JSON": (lambda m: m.update(image="[]"), "image must be a JSON object"),
    "other grid": (lambda m: m["image"].update(grid=[3, 3]), "rows and columns of 12 positions"),
    "many positions": (
        lambda m: (m["model"]["dims"].update(positions=1 << 30), m["image"].update(grid=[1 << 15, 1 << 15])),
        "pos_embed must have the shape",
    ),
    "many classes": (lambda m: (m["model"]["dims"].update(classes=1 << 30), m["image"].update(classes=[])), f"{HEAD} must have the shape"),
    "no classes": (lambda m: (m["model"]["dims"].update(classes=0), m["image"].update(classes=[])), f"{HEAD} must have the shape"),
    "fewer than no classes": (lambda m: m["model"]["dims"].update(classes=-1), "'classes' of dims must be 0 to"),
    "no channels": (lambda m: m["model"]["dims"].update(channels=0), "'channels' of dims must be 1 to"),
    "larger patches": (lambda m: m["model"]["dims"].update(patch=1 << 20), f"{PATCHES} must have the shape"),
    "a tensor of ours that is carried": (lambda m: tensor({"__metadata__": m}, PATCHES).update(role="carried"), "has the role carried"),
    "a text model": (lambda m: m["model"].update(arch="rwkv7"), "the metadata has no tokenizer|dims has no vocab"),
}  # fmt: skip


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return pack(tmp_path_factory.mktemp("packed")).read_bytes()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_one_sentence(original: bytes, tmp_path: Path, lie: str) -> None:
    change, message = LIES[lie]
    header, data = take_apart(original)
    change(header["__metadata__"])
    path = tmp_path / "m.safetensors"
    path.write_bytes(put_together(header, data))
    with pytest.raises(FormatError, match=message):
        use_everything(path)


def test_a_false_header_is_refused_or_harmless(original: bytes, tmp_path: Path) -> None:
    header, data = take_apart(original)
    path, rng, refused = tmp_path / "m.safetensors", random.Random(5), 0
    choices = Choices(rng.randrange)
    for _ in range(ROUNDS):
        changed = copy.deepcopy(header)
        of_images = {key: changed["__metadata__"][key] for key in ("image", "model")}
        mutate(rng.choice([changed, of_images]), choices)
        changed["__metadata__"] |= of_images
        path.write_bytes(put_together(changed, data))
        try:
            use_everything(path)
        except FormatError as error:
            refused += 1
            assert "m.safetensors: " in str(error) and len(str(error)) < 600
    assert ROUNDS // 3 < refused < ROUNDS  # both ends are reached


def test_classes_without_a_head_are_refused(tmp_path: Path) -> None:
    header, data = take_apart(pack(tmp_path, head="").read_bytes())
    header["__metadata__"]["model"]["dims"]["classes"] = 1 << 30
    path = tmp_path / "other.safetensors"
    path.write_bytes(put_together(header, data))
    with pytest.raises(FormatError, match="classes of dims must be 0 in a file without a tensor of that size; got 1073741824"):
        open_packed(path)


def test_a_carried_tensor_under_another_role_is_refused(tmp_path: Path) -> None:
    header, data = take_apart(pack(tmp_path, carried=True).read_bytes())
    tensor(header, "neck.lateral_convs.0.conv.bias")["role"] = "bias"
    path = tmp_path / "other.safetensors"
    path.write_bytes(put_together(header, data))
    with pytest.raises(FormatError, match="the role carried is that of tensors that Vision-RWKV does not use; neck"):
        open_packed(path)
