"""The `model` metadata: the architecture says what must be there."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures import ARCHITECTURES, Dims
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter, open_packed
from rwkvquant.formats.model import decode_model, encode_model
from tests.formats import examples

DIMS = Dims(layers=2, width=32, hidden=64, vocab=48, heads=2, head_size=16, ranks={"Rw": 8})
SIZES = {"layers": 2, "width": 32, "hidden": 64, "vocab": 48, "heads": 2, "head_size": 16, "ranks": {"Rw": 8}}
FIRST_FILES = {"arch": "rwkv7", "dims": SIZES}


def test_what_is_written_is_what_the_first_files_have() -> None:
    assert encode_model("rwkv7", DIMS) == encode_model("rwkv7", DIMS, "text") == json.dumps(FIRST_FILES)
    assert decode_model(json.dumps(FIRST_FILES)) == (ARCHITECTURES["rwkv7"], DIMS)


def test_a_file_may_say_its_modality_and_more() -> None:
    more = FIRST_FILES | {"modality": "text", "later": 1, "dims": SIZES | {"patches": 4}}
    assert decode_model(json.dumps(more)) == (ARCHITECTURES["rwkv7"], DIMS)


@pytest.mark.parametrize("modality", ["image", "", 3, None])
def test_another_modality_is_refused(modality: object) -> None:
    with pytest.raises(FormatError, match=r"the modality of RWKV-7 \(x070\) is text; the file says"):
        decode_model(json.dumps(FIRST_FILES | {"modality": modality}))
    if modality is not None:
        with pytest.raises(FormatError, match="is text; the file says"):
            encode_model("rwkv7", DIMS, modality)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", ["layers", "width", "hidden", "vocab", "heads", "head_size", "ranks"])
def test_every_size_of_the_architecture_must_be_there(size: str) -> None:
    dims = {name: value for name, value in SIZES.items() if name != size}
    with pytest.raises(FormatError, match=size):
        decode_model(json.dumps(FIRST_FILES | {"dims": dims}))


def test_a_size_that_the_architecture_does_not_have_is_neither_written_nor_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    rwkv7 = ARCHITECTURES["rwkv7"]
    table = tuple(spec for spec in rwkv7.table if not {"H", "N"} & set(spec.shape))
    headless = replace(rwkv7, name="headless", table=table, state=(), rules=())
    monkeypatch.setitem(ARCHITECTURES, "headless", headless)
    written = encode_model("headless", replace(DIMS, heads=0, head_size=0))
    assert "head" not in json.loads(written)["dims"] and "heads" not in json.loads(written)["dims"]
    assert decode_model(written) == (headless, replace(DIMS, heads=0, head_size=0))


def test_a_codec_for_inputs_that_are_never_negative_is_refused_elsewhere(tmp_path: Path) -> None:
    """The table of the architecture says which inputs those are: in RWKV that of ffn.value."""
    path = examples.write_model(tmp_path / "model.safetensors")
    assert open_packed(path).tensors["blocks.0.ffn.value.weight"].layout == "columnwise3.r512"
    for name, role in (("blocks.0.att.output.weight", "projection"), ("blocks.1.att.g2", "lora")):
        with ContainerWriter(tmp_path / "wrong.safetensors") as out:
            examples.add_model(out)
            out.add(name, examples.columnwise(np.random.default_rng(0), (32, 32)), role=role, method="kmeans")
            with pytest.raises(
                FormatError, match=rf"columnwise3.r512 is for matrices whose input is never negative; the input of {name} may"
            ):
                examples.finish(out)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7", "vrwkv"])
def test_the_input_of_ffn_value_is_never_negative_but_after_a_key_norm(arch: str) -> None:
    architecture = ARCHITECTURES[arch]
    names = [architecture.full_name(layer, key) for layer in (2, 3) for key in architecture.by_key]
    without = [name for name in names if "layers.3.ffn.key_norm" not in name and "layers.2.ffn.key_norm" not in name]
    found = [name for name in names if architecture.reads_nonnegative(name, without)]
    assert found == [architecture.full_name(layer, "ffn.value.weight") for layer in (2, 3)]
    with_norm = [*without, architecture.full_name(2, "ffn.key_norm.weight")]
    assert architecture.reads_nonnegative(found[0], with_norm) == (arch != "vrwkv") and architecture.reads_nonnegative(found[1], with_norm)
