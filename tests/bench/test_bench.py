"""Random models have the released sizes and keep their budget, and the numbers of bench are consistent."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from rwkvquant.architectures import Dims, Role, architecture
from rwkvquant.bench.layouts import PAPER_CODEBOOK, PAPER_GRID, PRESETS, choose
from rwkvquant.bench.measure import bytes_per_token, int8_operations_per_token, measure
from rwkvquant.bench.random_model import main, write_random_model
from rwkvquant.bench.roofline import Roofline
from rwkvquant.bench.shapes import RELEASED, released
from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.table import transform_bytes
from rwkvquant.runtime.session import load

# Parameters of the published checkpoints, in millions.
PARAMETERS = {"x070-0.1b": 191.0, "x070-0.4b": 450.8, "x070-1.5b": 1527.4, "x070-2.9b": 2947.7, "x070-7.2b": 7199.1, "x060-1.6b": 1599.9}
SMALL = Dims(2, 320, 640, 256, 5, 64, {"Rw": 32, "Ra": 32, "Rv": 32, "Rg": 64})


@pytest.fixture(autouse=True)
def quickly_tuned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models find their density from few texts: how exact it is, test_density.py asks."""
    monkeypatch.setattr("rwkvquant.bench.density.TUNING_VALUES", 1 << 14)


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_are_the_released_ones(name: str) -> None:
    arch, dims = released(name)
    used = [(spec, spec.forward_shape(dims)) for _, spec, _ in architecture(arch).used(dims.layers)]
    count = sum(math.prod(shape) for spec, shape in used if spec.role is not Role.STATE)
    assert abs(count / 1e6 - PARAMETERS[name]) < 0.06


def test_an_unknown_shape_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"x070-0.1b.*got x071"):
        released("x071")
    assert len(RELEASED) == 13


@pytest.mark.parametrize("preset", [preset for preset in PRESETS if preset not in ("dense", "paper")])
@pytest.mark.parametrize("name", ["x070-0.1b", "x070-1.5b", "x060-1.6b"])
def test_presets_keep_the_budget_and_use_it(name: str, preset: str) -> None:
    arch, dims = released(name)
    shapes, sparse = {}, set()
    for tensor, spec, _ in architecture(arch).used(dims.layers):
        if spec.role in (Role.PROJECTION, Role.LORA) and not spec.slices:
            rows, cols = spec.forward_shape(dims)
            shapes[tensor] = (rows, cols)
            if spec.nonnegative_input:
                sparse.add(tensor)
    chosen = choose(preset, shapes, 3.275, sparse)
    by_columns = {tensor for tensor, packing in chosen.items() if packing.layout.startswith("sections")}
    assert by_columns == (sparse if preset == "default" else set())
    stored = sum(packing.stored_bytes for packing in chosen.values())
    assert 3.2 < 8 * stored / sum(rows * cols for rows, cols in shapes.values()) <= 3.275


def test_the_default_of_models_for_images_has_pairs_and_no_columns() -> None:
    arch, dims = released("vrwkv-t")
    own, shapes = architecture(arch), {}
    for tensor, spec, _ in own.used(dims.layers):
        if spec.role is Role.PROJECTION:
            rows, cols = spec.forward_shape(dims)
            shapes[tensor] = (rows, cols)
    assert not any(own.reads_mostly_zeros(name, shapes) for name in shapes)
    for images in (True, False):
        kinds = {packing.layout.split(".")[0].rstrip("0123456789") for packing in choose("default", shapes, 3.275, images=images).values()}
        assert ("pairs" in kinds) == images and "uniform" in kinds


def test_the_paper_preset_has_the_papers_bits_and_shares() -> None:
    """3.275 by the paper's own count, averaged over matrices; and one matrix in ten has a grid, as in Algorithm 1."""
    assert (PAPER_GRID.nominal_bits, PAPER_CODEBOOK.nominal_bits) == (3.5, 3.25)
    chosen = choose("paper", {f"matrix {i}": (256, 256) for i in range(40)}, bits=3.275)
    grids = [packing == PAPER_GRID.packing((256, 256)) for packing in chosen.values()]
    assert [packing.layout.startswith("codebook") for packing in chosen.values()] == [not grid for grid in grids]
    nominal = [PAPER_GRID.nominal_bits if grid else PAPER_CODEBOOK.nominal_bits for grid in grids]
    assert sum(grids) == 4 and sum(nominal) / len(nominal) == 3.275


@pytest.mark.parametrize("preset", PRESETS)
def test_a_random_model_is_a_whole_packed_file_and_the_same_for_the_same_seed(tmp_path: Path, preset: str) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in ("a", "b", "c")]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        write_random_model(path, "rwkv7", SMALL, layouts=preset, bits=4.0, seed=seed)
    open_packed(paths[0]).verify()
    assert paths[0].read_bytes() == paths[1].read_bytes() != paths[2].read_bytes()
    logits, _ = load(paths[0]).forward([1, 2, 3])
    assert 0.01 < logits.std() < 100


def test_a_budget_that_cannot_be_met_and_an_unknown_preset_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="bits 1 cannot be reached"):
        write_random_model(tmp_path / "m", "rwkv7", SMALL, bits=1.0)
    with pytest.raises(ConfigError, match=r"layouts must be one of default.*got best"):
        write_random_model(tmp_path / "m", "rwkv7", SMALL, layouts="best")
    assert main([str(tmp_path / "m"), "x070-9b", "default", "3.275", "0.125"]) == 2
    assert "got x070-9b" in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_bytes_of_a_token_are_all_that_its_forward_reads(tmp_path: Path) -> None:
    write_random_model(tmp_path / "m.safetensors", "rwkv7", SMALL, bits=4.0)
    packed = open_packed(tmp_path / "m.safetensors")
    signs = sum(transform_bytes(packed.input_transform(name), entry.shape[-1]) for name, entry in packed.tensors.items())
    state = packed.architecture.zero_state(packed.dims)
    states = 2 * (state.att_shift.nbytes + state.ffn_shift.nbytes + state.wkv.nbytes)
    arrays = sum(array.nbytes for name in packed.tensors for array in packed.arrays(name).values())
    embedding = sum(array.nbytes for array in packed.arrays("emb.weight").values())
    assert bytes_per_token(packed) == arrays + signs - embedding + embedding // 256 + states
    assert signs > 0


def test_int8_operations_of_a_token_are_two_for_each_quantised_weight_of_the_blocks(tmp_path: Path) -> None:
    write_random_model(tmp_path / "m.safetensors", "rwkv7", SMALL, bits=4.0)
    projections = 4 * 320 * 320 + 2 * 320 * 640
    factors = 2 * 320 * (3 * 32 + 64)
    without = 2 * 320 * 32  # the first block has no v1 and v2
    assert int8_operations_per_token(open_packed(tmp_path / "m.safetensors")) == 2 * (2 * (projections + factors) - without)
    write_random_model(tmp_path / "dense.safetensors", "rwkv7", SMALL, layouts="dense")
    assert int8_operations_per_token(open_packed(tmp_path / "dense.safetensors")) == 0


def test_bench_reports_what_it_promises(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvquant.bench.measure.SECONDS", 0.01)
    monkeypatch.setattr("rwkvquant.bench.density.LENGTH", 12)
    path = tmp_path / "m.safetensors"
    write_random_model(path, "rwkv7", SMALL, bits=4.0)
    assert (
        run(["bench", str(path), "--json", "--rounds", "2", "--prefill", "70", "--batch", "3", "--threads", "2", "--state-bits", "12"]) == 0
    )
    result = json.loads(capsys.readouterr().out)
    assert set(result["batch_tok_s_state_bits"]) == {"3"} and result["batch_tok_s_state_bits"]["3"] > 0
    speeds = ("decode_tok_s", "prefill_tok_s", "prefill_share", "gb_s", "roofline_gb_s", "roofline_share", "roofline_gop_s")
    density = result["density"]
    assert density["asked"] == 0.125 and density["least"] <= density["mean"] <= density["most"] and len(density["layers"]) == 2
    assert abs(density["mean"] - 0.125) < 0.01
    for key in (*speeds, "bytes_per_token", "threads", "peak_rss_bytes"):
        assert result[key] > 0, key
    assert result["threads"] == 2 and set(result["batch_tok_s"]) == {"3"} and len(result["logits_hash"]) == 16
    assert result["gb_s"] == pytest.approx(result["decode_tok_s"] * result["bytes_per_token"] / 1e9)
    assert result["roofline_share"] == pytest.approx(result["gb_s"] / result["roofline_gb_s"])
    assert measure(path, threads=1, rounds=1, prefill_tokens=8)["logits_hash"] == result["logits_hash"]
    assert run(["bench", str(path), "--rounds", "1", "--prefill", "8", "--batch", "2", "--state-bits", "12"]) == 0
    said = capsys.readouterr().out
    assert "states in 12 bits, 2 side by side" in said
    assert run(["bench", str(path), "--rounds", "1", "--prefill", "8", "--batch", "2", "--state-bits", "8"]) == 0
    assert "states in 8 bits, 2 side by side" in capsys.readouterr().out
    assert run(["bench", str(path), "--batch", "2", "--state-bits", "4"]) == 2
    assert "states in slots have 32, 12 or 8 bits a value; got 4" in capsys.readouterr().err
    assert run(["bench", str(path), "--rounds", "1", "--prefill", "8"]) == 0
    said = capsys.readouterr().out
    assert "tokens/s" in said and "states in 12 bits" not in said and "asked for: 12.5 %; random weights alone have 50 %" in said


def test_bench_takes_one_file_or_one_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("not a model")
    for arguments in (
        ["bench"],
        ["bench", "x", "--random", "x070-0.1b"],
        ["bench", str(tmp_path / "notes.txt")],
        ["bench", "--random", "x"],
    ):
        assert run(arguments) == 2
        assert capsys.readouterr().err.strip()


def test_the_roofline_reads_all_of_its_memory() -> None:
    with Roofline(2, 1 << 20) as roofline:
        assert sum(map(len, roofline.parts())) == 1 << 20
        assert roofline.read() > 0
