"""A factor for each column: the product stays, files keep it, and a damaged one is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant import QuantizeRequest
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import recipe_for
from rwkvquant.transforms.column_scale import COLUMN_SCALE
from tests.fuzz.packed import put_together, take_apart
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file

NAME = "blocks.0.att.key.weight"


def test_the_product_and_the_hessian_are_those_of_the_plain_matrix() -> None:
    random = np.random.default_rng(0)
    W, X = random.standard_normal((5, 12)), random.standard_normal((40, 12))
    applied = COLUMN_SCALE.of(np.float16(random.lognormal(0, 1, 12)))
    changed = applied.activations(X)
    assert np.allclose(changed @ applied.weights(W).T, X @ W.T) and np.allclose(applied.undone(applied.weights(W)), W)
    assert np.allclose(applied.hessian(X.T @ X), changed.T @ changed)
    assert COLUMN_SCALE.flops(12, {}) == 12 and (COLUMN_SCALE.make(12, 3).arrays["scale"] == 1).all()


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("awq")
    source = checkpoint_file(folder, "rwkv7", **TINY | {"layers": 1})
    request = QuantizeRequest(method="awq", code_bits=4, calibration=calibration_text(folder, rows=4))
    result = quantize(source, folder / "awq.safetensors", request)
    assert result.bits_per_weight == plan_only(source, request).bits_per_weight  # the scales are counted
    plain = plan_only(source, QuantizeRequest(method="rtn", code_bits=4, calibration=calibration_text(folder, rows=4)))
    assert result.bits_per_weight > plain.bits_per_weight
    return folder / "awq.safetensors"


def test_a_file_has_a_scale_for_each_input(packed: Path) -> None:
    opened = open_packed(packed)
    opened.verify()
    scale = opened.input_transform(NAME).arrays["scale"]
    assert opened.entry(NAME).input_transform.name == "column-scale" and len(set(scale.tolist())) > 5
    assert opened.entry("head.weight").input_transform.name == "none"
    assert opened.summary()["transforms"][0]["name"] == "column-scale"


@pytest.mark.parametrize("value", [0.0, -1.0, np.inf, np.nan])
def test_a_scale_that_cannot_be_is_refused(tmp_path: Path, packed: Path, value: float) -> None:
    parts = take_apart(packed.read_bytes())
    array = f"{NAME}.input_transform.scale"
    scale = np.frombuffer(parts.arrays[array], np.float16).copy()
    scale[3] = value
    parts.arrays[array] = scale.tobytes()
    import zlib

    entry = next(entry for entry in parts.tensors() if entry["name"] == NAME)
    entry["input_transform"]["arrays"]["scale"] = f"{zlib.crc32(scale.tobytes()):08x}"
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(put_together(parts.header, b"".join(parts.arrays.values())))
    with pytest.raises(FormatError, match=r"scale of (column-scale|blocks.*) must be finite"):
        open_packed(path).verify()
    open_packed(path).decode(NAME)  # does no harm


def test_the_recipes_say_what_they_do() -> None:
    awq, quarot = recipe_for(QuantizeRequest(method="awq")), recipe_for(QuantizeRequest(method="quarot"))
    assert awq.transform == "column-scale" and awq.calibrated and {setting.method for setting in awq.candidates} == {"rtn"}
    assert quarot.transform == "hadamard" and {setting.method for setting in quarot.candidates} == {"gptq"}
    plain = recipe_for(QuantizeRequest(method="quarot", own_options=("feedback=no",), code_bits=3))
    assert [setting.method for setting in plain.candidates] == ["rtn"]
