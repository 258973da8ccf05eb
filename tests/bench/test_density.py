"""Random models have the density that was asked for in every layer, and the density of a file is that of its plain forward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.architectures import Dims, architecture
from rwkvquant.bench.density import Density, measure_density, own_texts
from rwkvquant.bench.layouts import codebook, pairs
from rwkvquant.bench.random_model import default_side, main, write_model, write_random_model
from rwkvquant.codecs import DenseConfig, GridConfig, PackedTensor, Packing
from rwkvquant.codecs.base import Codec
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels import rwkv6, rwkv7
from rwkvquant.kernels.functions import Array, squared_relu
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.session import load
from rwkvquant.runtime.weights import Weights, packed_weights
from rwkvquant.transforms.hadamard import HADAMARD

DIMS = {
    "rwkv7": Dims(2, 320, 1280, 256, 5, 64, {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 64}),
    "rwkv6": Dims(2, 320, 1120, 256, 5, 64, {"Rm": 32, "Rd": 64}),
}
ALLOWED = 0.005
TEXTS = np.random.default_rng(7).integers(0, 256, (64, 8))


def reference_density(weights: Weights, texts: Sequence[Sequence[int]], monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """(layers,): the share of what the squared ReLUs of the NumPy forward give that is not zero."""
    shares: list[float] = []

    def counted(x: Array) -> Array:
        y = squared_relu(x)
        shares.append(float((y != 0).mean()))
        return y

    for module in (rwkv6, rwkv7):
        monkeypatch.setattr(module, "squared_relu", counted)
    ReferenceEngine(weights).read(texts, architecture(weights.arch).zero_state(weights.dims, len(texts)), "last")
    return np.array(shares).reshape(-1, weights.dims.layers).mean(0)


@pytest.mark.parametrize(
    ("arch", "layouts", "density"),
    [
        ("rwkv7", "default", 0.125),
        ("rwkv6", "default", 0.125),
        ("rwkv7", "uniform", 0.2),
        ("rwkv6", "codebook", 0.2),
        ("rwkv7", "paper", 0.04),
        ("rwkv6", "pairs", 0.75),
        ("rwkv7", "dense", 1.0),
    ],
)
def test_every_layer_has_the_density_that_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, layouts: str, density: float
) -> None:
    path = tmp_path / "m.safetensors"
    write_random_model(path, arch, DIMS[arch], layouts=layouts, bits=4.5, density=density)
    packed = open_packed(path)
    packed.verify()
    assert packed.quantization_config["density"] == density
    found = reference_density(packed_weights(packed), TEXTS.tolist(), monkeypatch)
    assert np.abs(found - density).max() < ALLOWED, found


def test_random_weights_alone_are_half_dense(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, "rwkv7", DIMS["rwkv7"], packing(GridConfig(4)))
    assert np.abs(reference_density(packed_weights(open_packed(path)), TEXTS.tolist(), monkeypatch) - 0.5).max() < 0.05


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("arch", DIMS)
def test_the_density_of_a_file_is_that_of_the_plain_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arch: str, rotated: bool
) -> None:
    """Signs of values near zero may differ, because the engine rounds activations to int8."""
    path = tmp_path / "m.safetensors"
    write_model(path, arch, DIMS[arch], packing(GridConfig(3)))
    weights = packed_weights(open_packed(path))
    if rotated:
        matrices = {name: each for name, each in weights.matrices.items() if name.startswith("blocks.") and "ffn.value" not in name}
        weights = replace(weights, transforms={name: HADAMARD.make(each.shape[1], 0) for name, each in matrices.items()})
    found = measure_density(weights, TEXTS, threads=1)
    assert found is not None
    monkeypatch.setattr("rwkvquant.bench.density.WATCHED", 8)
    every = measure_density(weights, TEXTS, threads=1)
    assert every is not None
    np.testing.assert_allclose(every.layers, reference_density(weights, TEXTS.tolist(), monkeypatch), rtol=0, atol=0.005)
    np.testing.assert_allclose(found.layers, every.layers, rtol=0, atol=0.02)
    assert Density((0.1, 0.3)).to_json() == {"mean": 0.2, "least": 0.1, "most": 0.3, "layers": [0.1, 0.3]}


def test_a_model_writes_its_own_text_after_a_token_0(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    write_model(path, "rwkv7", DIMS["rwkv7"], packing(GridConfig(4)))
    texts = own_texts(load(path, threads=1))
    assert (texts[:, 0] == 0).all() and len(np.unique(texts, axis=0)) == len(texts)
    assert texts.min() >= 0 and texts.max() < 256


def leaning_layouts() -> list[Packing]:
    shape = (96, 640)
    kinds = [
        GridConfig(bits, group, symmetric, 8).packing(shape) for bits in range(1, 5) for group in (32, 64) for symmetric in (False, True)
    ]
    kinds += [GridConfig(bits, 128, scale_bits=16).packing(shape) for bits in range(5, 9)]
    kinds += [codebook(shape, bits, rows, rank) for bits, rows in ((2, 2), (3, 2), (3, 16), (4, 4)) for rank in (0, 1, 4, 8)]
    return kinds + [pairs(shape, bits) for bits in range(4, 9)] + [DenseConfig(16).packing(shape), DenseConfig(32).packing(shape)]


@pytest.mark.parametrize("kind", leaning_layouts(), ids=lambda kind: f"{kind.layout} {list(kind.values.values())}")
def test_leaning_weights_have_rows_with_a_common_part(kind: Packing) -> None:
    arrays = kind.codec.leaning_arrays(np.random.default_rng(0), kind, 0.05)
    tensor = PackedTensor(kind, arrays)
    for suffix, values in arrays.items():
        assert kind.codec.broken_rule(kind, suffix, values) is None
    W = tensor.decode()
    means = W.mean(1) / W.std(1)
    assert 0.08 < abs(means.mean()) < 1.1 and 0.012 < W.std() < 0.1
    assert np.abs(np.sign(means).mean()) > 0.95  # one sign, for nearly all rows


def test_a_density_that_cannot_be_had_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.safetensors"
    for density in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ConfigError, match="density must be above 0 and at most 1"):
            write_random_model(path, "rwkv7", DIMS["rwkv7"], density=density)
    assert main([str(path), "x070-0.1b", "default", "3.275", "2"]) == 2
    assert "got 2" in capsys.readouterr().err
    monkeypatch.setattr("rwkvquant.codecs.uniform.UniformCodec.leaning_arrays", Codec.leaning_arrays)
    with pytest.raises(ConfigError, match=r"cannot have a density of 3 %; a layer stays at .* %"):
        write_model(path, "rwkv7", DIMS["rwkv7"], packing(GridConfig(4)), density=0.03)
    assert not path.exists()


def packing(config: GridConfig):
    """All quantised matrices with one setting."""
    return lambda name, spec, shape: (
        config.packing(shape)
        if spec.input is not None and len(shape) == 2 and spec.role.value in ("projection", "lora")
        else default_side(spec, shape)
    )
