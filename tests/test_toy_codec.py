"""A codec that is defined in this file alone is packed, verified, inspected and run by both engines and by torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import Dims, Role, TensorSpec
from rwkvquant.bench.random_model import default_side, write_model
from rwkvquant.cli.main import run
from rwkvquant.codecs import Codec, CodecConfig, PackedTensor, Packing, config_from_json, layout_ids, register, unregister
from rwkvquant.codecs.packing import Arrays
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.models import PackedSource, TorchModel
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.session import load
from rwkvquant.runtime.weights import packed_weights

DIMS = Dims(2, 32, 48, 40, 2, 16, {"Rw": 8, "Ra": 8, "Rv": 8, "Rg": 8})


@dataclass(frozen=True)
class SignConfig(CodecConfig):
    bits: int = 1


@dataclass(frozen=True)
class SignTensor:
    """Weights of one size a row, and their signs."""

    positive: NDArray[np.bool_]
    row_scale: NDArray[np.float16]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.positive.shape

    def decode(self) -> NDArray[np.float32]:
        scale = self.row_scale.astype(np.float32)[:, None]
        return np.where(self.positive, scale, -scale)


class SignCodec(Codec):
    name, kind = "sign", "uniform"
    config, tensor = SignConfig, SignTensor
    layouts = ("sign1.plain",)

    def packing(self, config: SignConfig, shape: tuple[int, ...], rows: bool) -> Packing:
        return Packing("sign1.plain", shape)

    def packing_of(self, tensor: SignTensor) -> Packing:
        return Packing("sign1.plain", tensor.shape)

    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        rows, cols = packing.shape
        return {"signs": (np.uint8, -(-rows * cols // 8)), "row_scale": (np.float16, rows)}

    def pack(self, packing: Packing, tensor: SignTensor) -> dict[str, NDArray[Any]]:
        return {"signs": np.packbits(tensor.positive), "row_scale": tensor.row_scale}

    def unpack(self, packing: Packing, arrays: Arrays) -> SignTensor:
        rows, cols = packing.shape
        signs = np.unpackbits(arrays["signs"], count=rows * cols).reshape(rows, cols)
        return SignTensor(signs.astype(bool), arrays["row_scale"][:rows])


@pytest.fixture(autouse=True)
def sign() -> Iterator[Codec]:
    codec = register(SignCodec())
    yield codec
    unregister(codec)


def in_signs(_: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
    """Every matrix, the head and the embedding among them."""
    matrix = spec.role in (Role.PROJECTION, Role.LORA, Role.HEAD, Role.EMBEDDING)
    return SignConfig().packing(shape) if matrix else default_side(spec, shape)


@pytest.fixture
def packed_path(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.safetensors", "rwkv7", DIMS, in_signs)
    return tmp_path / "m.safetensors"


def test_a_tensor_comes_back_and_its_size_was_foretold() -> None:
    rng = np.random.default_rng(0)
    tensor = SignTensor(rng.random((5, 33)) < 0.5, rng.random(5).astype(np.float16))
    packed = PackedTensor.pack(tensor)
    assert packed.layout == SignConfig().layout((5, 33)) == "sign1.plain" and "sign1.plain" in layout_ids()
    assert sum(array.nbytes for array in packed.arrays.values()) == SignConfig().stored_bytes((5, 33)) == 128
    np.testing.assert_array_equal(packed.decode(), tensor.decode())
    np.testing.assert_array_equal(packed.rows([4, 0, 4]), tensor.decode()[[4, 0, 4]])
    x = rng.standard_normal((2, 33)).astype(np.float32)
    np.testing.assert_allclose(packed.product(x), x @ tensor.decode().T, rtol=1e-5)
    assert config_from_json(SignConfig().to_json()) == SignConfig() and SignConfig().code_bits == 1


def test_both_engines_and_torch_give_the_same_logits(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    packed.verify()
    weights, tokens = packed_weights(packed), [5, 1, 39, 0]
    (want,), _ = ReferenceEngine(weights).read([tokens], packed.architecture.zero_state(DIMS), "all")
    (got,), _ = NativeEngine(weights, 1).read([tokens], packed.architecture.zero_state(DIMS), "all")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    logits, _ = TorchModel(PackedSource(packed)).forward(torch.tensor([tokens]))
    np.testing.assert_allclose(logits[0].numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())
    assert np.isfinite(load(packed_path).forward(tokens)[0]).all()


def test_commands_know_it_and_say_that_it_is_decoded(packed_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", str(packed_path)]) == 0
    capsys.readouterr()
    assert run(["inspect", str(packed_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decoded_layouts"] == ["sign1.plain"]
    assert run(["inspect", str(packed_path)]) == 0
    assert "no native product for sign1.plain" in capsys.readouterr().out


def test_a_reader_without_the_codec_refuses_the_file_and_lists_what_it_knows(packed_path: Path, sign: Codec) -> None:
    unregister(sign)
    with pytest.raises(FormatError, match=r"'sign1.plain' is not a layout this version reads \(.*uniform1 to uniform8 .t16x64"):
        open_packed(packed_path)
