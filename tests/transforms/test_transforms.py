"""A matrix may be stored for a transformed input: readers undo it, engines give the same product, and unknown transforms are refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant.codecs import DenseTensor, PackedTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import ContainerWriter, open_packed
from rwkvquant.formats.table import TransformEntry
from rwkvquant.transforms import Applied, Transform, register, transform_named, transform_names, unregister
from tests.formats import examples
from tests.formats.examples import DIMS
from tests.fuzz.packed import put_together, take_apart

NAME = "blocks.1.att.value.weight"


class Scale(Transform):
    """x' = 2^power * s * x, one s for each column."""

    name = "toy-scale"
    keys: ClassVar = {"power": int}

    def check(self, values: Any, width: int) -> None:
        if not -8 <= values["power"] <= 8:
            raise FormatError(f"power of {self.name} must be -8 to 8; got {values['power']}")

    def sizes(self, values: Any, width: int) -> dict[str, tuple[Any, int]]:
        return {"scale": (np.float32, width)}

    def factor(self, width: int, values: Any, arrays: Any) -> NDArray[np.float32]:
        return np.float32(2.0) ** values["power"] * arrays["scale"][:width]

    def activations(self, x: Any, values: Any, arrays: Any) -> Any:
        return x * self.factor(x.shape[1], values, arrays)

    def weights(self, W: Any, values: Any, arrays: Any) -> Any:
        return W / self.factor(W.shape[1], values, arrays)

    def undone(self, W: Any, values: Any, arrays: Any) -> Any:
        return W * self.factor(W.shape[1], values, arrays)

    def hessian(self, H: Any, values: Any, arrays: Any) -> Any:
        factor = self.factor(len(H), values, arrays)
        return factor[:, None] * H * factor

    def flops(self, width: int, values: Any) -> int:
        return width


@pytest.fixture
def scale() -> Iterator[Transform]:
    transform = register(Scale())
    yield transform
    unregister(transform)


@pytest.fixture
def applied(scale: Transform) -> Applied:
    powers = np.random.default_rng(1).integers(-3, 4, DIMS.width)  # powers of two: multiplied and divided without rounding
    return Applied("toy-scale", {"power": 2}, {"scale": (2.0**powers).astype(np.float32)})


def write(path: Path, W: NDArray[np.float32], applied: Applied) -> Path:
    with ContainerWriter(path) as out:
        examples.add_model(out)
        out.add(NAME, DenseTensor(applied.weights(W)), role="projection", method="dense", input_transform=applied)
        examples.finish(out)
    return path


@pytest.fixture
def W() -> NDArray[np.float32]:
    return np.random.default_rng(0).standard_normal((DIMS.width, DIMS.width)).astype(np.float32)


def test_none_changes_nothing() -> None:
    assert transform_names() == ("none", "column-power", "hadamard", "column-power-hadamard", "column-scale")
    identity, W = transform_named("none"), np.eye(3, dtype=np.float32)
    for change in (identity.activations, identity.weights, identity.undone, identity.hessian):
        assert change(W, {}, {}) is W
    assert identity.flops(64, {}) == 0 and TransformEntry().to_json() == "none"


def test_a_matrix_comes_back_and_its_product_is_that_of_the_transformed_input(
    tmp_path: Path, W: NDArray[np.float32], applied: Applied
) -> None:
    packed = open_packed(write(tmp_path / "m.safetensors", W, applied))
    packed.verify()
    assert packed.ledger().file_bytes == packed.path.stat().st_size
    np.testing.assert_array_equal(packed.decode(NAME), W)
    stored_transform = packed.input_transform(NAME)
    assert (stored_transform.name, stored_transform.values) == ("toy-scale", {"power": 2})
    x = np.random.default_rng(2).standard_normal((2, DIMS.width)).astype(np.float32)
    stored: PackedTensor = packed.packed(NAME)
    got = stored.product(stored_transform.transform.activations(x, stored_transform.values, stored_transform.arrays), int8=False)
    np.testing.assert_allclose(got, x @ W.T, rtol=1e-4, atol=1e-5)
    assert packed.decoded_layouts() == ["dense.f32", *examples.WITHOUT_PRODUCT]  # no engine applies this transform, and `inspect` says so


def test_what_was_spooled_with_a_transform_is_found_again(tmp_path: Path, W: NDArray[np.float32], applied: Applied) -> None:
    spool = tmp_path / "spool"
    first = ContainerWriter(tmp_path / "m.safetensors", spool)
    first.add(NAME, DenseTensor(applied.weights(W)), role="projection", method="dense", input_transform=applied)
    state = first.state()
    first.close()
    with ContainerWriter(tmp_path / "m.safetensors", spool) as again:
        again.restore(state)
        examples.add_model(again)
        examples.finish(again)
    np.testing.assert_array_equal(open_packed(tmp_path / "m.safetensors").decode(NAME), W)


def test_a_flipped_bit_in_its_array_is_found(tmp_path: Path, W: NDArray[np.float32], applied: Applied) -> None:
    path = write(tmp_path / "m.safetensors", W, applied)
    parts = take_apart(path.read_bytes())
    name = f"{NAME}.input_transform.scale"
    parts.arrays[name] = bytes([parts.arrays[name][0] ^ 1]) + parts.arrays[name][1:]
    path.write_bytes(put_together(parts.header, b"".join(parts.arrays.values())))
    with pytest.raises(FormatError, match=rf"checksum of {NAME} input_transform.scale does not match"):
        open_packed(path).verify()


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (
            {"input_transform": {"name": "rotate"}},
            r"knows no transform 'rotate' \(it has none, column-power, hadamard, column-power-hadamard, column-scale, toy-scale\).*value",
        ),
        ({"input_transform": {"name": "toy-scale", "arrays": {}}}, "has no power"),
        ({"input_transform": {"name": "toy-scale", "power": "2"}}, "must be int"),
        ({"input_transform": {"name": "toy-scale", "power": 9}}, "power of toy-scale must be -8 to 8; got 9"),
        ({"input_transform": {"name": "toy-scale", "power": 1}}, "toy-scale has the arrays scale; got none"),
        ({"input_transform": "none"}, "belongs to no tensor"),
        ({"input_transform": 3}, "must be dict"),
        ({"output_transform": "toy-scale"}, "applies no transform to outputs"),
        ({"input_permutation": "none"}, "reads no input_permutation"),
    ],
)
def test_what_a_reader_cannot_undo_is_refused_in_a_sentence(
    tmp_path: Path, W: NDArray[np.float32], applied: Applied, change: dict[str, Any], rule: str
) -> None:
    path = write(tmp_path / "m.safetensors", W, applied)
    parts = take_apart(path.read_bytes())
    entry = next(entry for entry in parts.tensors() if entry["name"] == NAME)
    entry.update(json.loads(json.dumps(change)))
    path.write_bytes(put_together(parts.header, b"".join(parts.arrays.values())))
    with pytest.raises(FormatError, match=rf"(?s){rule}"):
        open_packed(path)


def test_a_file_with_a_transform_is_refused_without_that_transform(
    tmp_path: Path, W: NDArray[np.float32], applied: Applied, scale: Transform
) -> None:
    path = write(tmp_path / "m.safetensors", W, applied)
    unregister(scale)
    with pytest.raises(FormatError, match="knows no transform 'toy-scale'"):
        open_packed(path)
    register(scale)
