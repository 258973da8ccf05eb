"""The native engine for images on random packed models, without torch: same bits in every body, and what does not fit is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.architectures import Architecture, Dims
from rwkvquant.bench.random_model import write_random_model
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.engines.native import held_matrix
from rwkvquant.runtime.session import load
from rwkvquant.runtime.weights import packed_weights
from tests.kernels.guarded import SENTINEL, body

SIZES = {"layer scale": Dims(2, 136, 264, positions=9, patch=4, channels=3, classes=7), "none": Dims(1, 192, 400, positions=4, patch=5)}


def write(folder: Path, kind: str, layouts: str) -> Path:
    dims = SIZES[kind]
    dims = Dims(dims.layers, dims.width, dims.hidden, positions=dims.positions, patch=dims.patch, channels=3, classes=7)
    with pytest.MonkeyPatch.context() as patch:
        if layouts == "columns":  # as by_columns=yes stores ffn.value: its input is not negative, but not mostly zero either
            patch.setattr(Architecture, "reads_mostly_zeros", Architecture.reads_nonnegative)
        write_random_model(folder / "m.safetensors", "vrwkv", dims, layouts="default" if layouts == "columns" else layouts, bits=5.0)
    return folder / "m.safetensors"


def images(count: int, height: int = 11, width: int = 25) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("layouts", ["default", "columns", "uniform", "codebook", "pairs", "dense"])
@pytest.mark.parametrize("kind", SIZES)
def test_bodies_threads_and_batches_give_the_same_bits(kind: str, layouts: str, activations: str, tmp_path: Path) -> None:
    path, pictures = write(tmp_path, kind, layouts), images(3)
    found: dict[Any, np.ndarray] = {}
    for isa in _native.available_isas():
        with body(isa):
            for threads in (1, 3):
                model = load(path, threads=threads, activations=activations, modality="image")
                found[isa, threads] = np.stack(model.features(pictures))
                found[isa, threads, "alone"] = np.stack([model.features(picture)[0] for picture in pictures])
    want = found["plain", 1]
    assert np.isfinite(want).all() and 0.1 < want.std() < 10
    for which, got in found.items():
        np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32), err_msg=str(which))


def engine(path: Path, **changes: Any) -> Any:
    weights = packed_weights(open_packed(path))
    dims = weights.dims
    arguments: dict[str, Any] = {"layers": dims.layers, "width": dims.width, "hidden": dims.hidden, "post_norm": True}
    arguments["matrices"] = {name: held_matrix(_native, name, packed) for name, packed in weights.matrices.items()}
    arguments["vectors"] = {name: values.reshape(-1) for name, values in weights.vectors.items()}
    return _native.ImageEngine(**(arguments | {"threads": 2, "quantize_activations": True} | changes))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("images"), "layer scale", "columns")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": 0}, "sizes must be 1"),
        ({"hidden": 1 << 31}, "sizes must be 1"),
        ({"threads": 0}, "threads must be 1 to 1024"),
        ({"layers": 3}, r"needs this.*layers\.2"),
        ({"width": 64}, "elements; got 136"),
        ({"hidden": 200}, r"200 x 136; got 264 x 136.*ffn\.key"),
        ({"matrices": {"a": 1}}, "a must be a native.Matrix"),
        ({"vectors": {}}, "needs this vector"),
    ],
)
def test_weights_that_do_not_fit_are_refused(packed: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        engine(packed, **changes)


def test_a_key_norm_forbids_columns(packed: Path) -> None:
    vectors = {name: values.reshape(-1) for name, values in packed_weights(open_packed(packed)).vectors.items()}
    vectors |= {f"backbone.layers.1.ffn.key_norm.{part}": np.ones(264, np.float32) for part in ("weight", "bias")}
    with pytest.raises(ValueError, match=r"never negative \(backbone.layers.1.ffn.value.weight\)"):
        engine(packed, vectors=vectors)


@pytest.mark.parametrize(
    "patches", [(0, 1, 1), (1, 0, 3), (1, 3, 3), (1 << 16, 1 << 16, 1), (1 << 40, 1 << 40, 1 << 40), (1, 1 << 16, 1 << 16)]
)
def test_patches_that_do_not_fit_are_refused(packed: Path, patches: tuple[int, int, int]) -> None:
    x = np.full(2 * 4 * 136 + 64, SENTINEL, np.float32)
    with pytest.raises(ValueError, match="patch"):
        engine(packed).blocks(x[: 2 * 4 * 136], *patches)
    assert (x == SENTINEL).all()


def test_only_its_patches_are_written(packed: Path) -> None:
    x = np.full(2 * 6 * 136 + 64, SENTINEL, np.float32)
    x[32:-32] = np.random.default_rng(0).standard_normal(2 * 6 * 136)
    engine(packed).blocks(x[32:-32], 2, 2, 3)
    assert (x[:32] == SENTINEL).all() and (x[-32:] == SENTINEL).all() and np.isfinite(x).all()


def test_products_outside_of_the_blocks_take_only_what_fits(packed: Path) -> None:
    built, x = engine(packed), np.zeros((3, 136), np.float32)
    out = np.full(21, np.nan, np.float32)
    built.multiply("head.fc.weight", x, 3, out)
    assert (out == 0).all()
    for name, count, size in (("head.fc.weight", 2, 21), ("head.fc.weight", 3, 20), ("head.fc.weight", 0, 21)):
        with pytest.raises(ValueError, match="count"):
            built.multiply(name, x, count, np.zeros(size, np.float32))
    for name in ("head.fc", "backbone.layers.0.ffn.value.weight", ""):
        with pytest.raises(ValueError, match="no such matrix outside its blocks"):
            built.multiply(name, x, 3, out)


def test_a_file_that_became_shorter_is_an_error(packed: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(packed.read_bytes())
    model = load(copy, pages="map", modality="image")
    with open(copy, "r+b") as file:
        file.truncate(copy.stat().st_size // 2)
    with pytest.raises(FormatError):
        model.features(images(1))
