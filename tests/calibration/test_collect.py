"""Collecting block by block gives the statistics of one whole forward, for any batch size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.calibration.collect import HiddenStates, ReferenceRun, advance, collect_block, collect_head
from rwkvquant.errors import CalibrationError
from rwkvquant.models import rwkv6, rwkv7
from tests.helpers import random_state_dict

MODELS = {"rwkv7": rwkv7, "rwkv6": rwkv6}
ROWS, LENGTH, WIDTH, LAYERS = 5, 12, 64, 2


def random_weights(arch: str) -> dict[str, Tensor]:
    """A random checkpoint as models/ takes it: matrices (out, in), slices apart, vectors flat."""
    weights = {}
    specs = {spec.name: spec for spec in ARCHITECTURES[arch].table}
    for name, value in random_state_dict(arch, layers=LAYERS, width=WIDTH).items():
        spec = specs.get(name.split(".", 2)[2]) if name.startswith("blocks.") else None
        if spec is not None and spec.slices:
            weights |= {f"{name}.{i}": part.T.contiguous() for i, part in enumerate(value)}
        elif spec is not None and spec.transposed:
            weights[name] = value.T.contiguous()
        else:
            weights[name] = value.flatten() if value.shape[0] == 1 else value
    return weights


def of_block(weights: dict[str, Tensor], layer: int) -> dict[str, Tensor]:
    start = f"blocks.{layer}."
    return {name.removeprefix(start): value for name, value in weights.items() if name.startswith(start)}


def embedded(arch: str, weights: dict[str, Tensor]) -> Tensor:
    tokens = torch.randint(0, 256, (ROWS, LENGTH), generator=torch.Generator().manual_seed(1))
    return MODELS[arch].embed(weights, tokens)


@pytest.mark.parametrize("batch", [1, 2, 5, 9])
@pytest.mark.parametrize("arch", MODELS)
def test_statistics_are_those_of_one_whole_forward(arch: str, batch: int, tmp_path: Path) -> None:
    model, weights = MODELS[arch], random_weights(arch)
    architecture = ARCHITECTURES[arch]
    x = embedded(arch, weights)
    stream = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, with_carry=arch == "rwkv7")
    stream.fill(lambda rows: x[rows], batch)

    carry = None
    for layer in range(LAYERS):
        heard: dict[str, Tensor] = {}
        result = collect_block(model.block, of_block(weights, layer), architecture, stream, batch)
        advance(model.block, of_block(weights, layer), stream, batch)
        x, _, carry = model.block(of_block(weights, layer), x, None, carry, heard.__setitem__)
        for name, sliced in architecture.product_inputs.items():
            parts = {f"{name}.{i}": heard[name][i] for i in range(5)} if sliced else {name: heard.get(name)}
            for key, value in parts.items():
                assert (key in result) == (value is not None), key  # RWKV-7's first layer has no v_hidden, and nothing has head.x
                if value is not None:
                    X = value.reshape(-1, value.shape[-1]).double()
                    assert result[key].tokens == len(X) == ROWS * LENGTH
                    torch.testing.assert_close(result[key].H, X.T @ X / len(X), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(stream.read(slice(0, ROWS))[0], x, rtol=1e-5, atol=1e-5)

    model.head(weights, x, heard.__setitem__)
    X = heard["head.x"].reshape(-1, WIDTH).double()
    norm_only = {name: value for name, value in weights.items() if name.startswith("ln_out")}  # no logits are computed
    result = collect_head(model.head, norm_only, architecture, stream, batch)
    torch.testing.assert_close(result["head.x"].H, X.T @ X / len(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", MODELS)
def test_every_matrix_of_the_table_finds_its_statistics(arch: str, tmp_path: Path) -> None:
    weights = random_weights(arch)
    x = embedded(arch, weights)
    stream = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, with_carry=arch == "rwkv7")
    stream.fill(lambda rows: x[rows], 2)
    advance(MODELS[arch].block, of_block(weights, 0), stream, 2)
    result = collect_block(MODELS[arch].block, of_block(weights, 1), ARCHITECTURES[arch], stream, 2)
    for spec in ARCHITECTURES[arch].table:
        if spec.input is not None:
            for suffix in [f".{i}" for i in range(5)] if spec.slices else [""]:
                assert result[spec.input + suffix].H.shape[0] == of_block(weights, 1)[spec.name + suffix].shape[1]


def test_quantised_weights_reach_the_next_block(tmp_path: Path) -> None:
    """The weights that `advance` gets decide what later blocks see; through v_first they also reach blocks after the next."""
    weights = random_weights("rwkv7")
    x = embedded("rwkv7", weights)
    carries = []
    for change in (0.0, 0.1):
        stream = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, with_carry=True)
        stream.fill(lambda rows: x[rows], 2)
        assert stream.read(slice(0, 2))[1] is None
        block = of_block(weights, 0)
        block["att.value.weight"] = block["att.value.weight"] + change
        advance(rwkv7.block, block, stream, 2)
        advance(rwkv7.block, of_block(weights, 1), stream, 2)
        carries.append(stream.read(slice(0, ROWS))[1])
    assert not torch.allclose(carries[0], carries[1])


def test_hidden_states_are_in_the_work_directory_with_their_space_reserved(tmp_path: Path) -> None:
    HiddenStates(tmp_path, 3, 4, 8, with_carry=True)
    files = {path.name: path.stat() for path in tmp_path.iterdir()}
    assert {name: stat.st_size for name, stat in files.items()} == dict.fromkeys(("hidden.0.f32", "hidden.1.f32", "hidden_carry.f32"), 384)
    assert all(stat.st_blocks > 0 for stat in files.values())  # not sparse


def test_a_work_directory_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CalibrationError, match=r"none cannot hold .* MB of hidden states: No such file"):
        HiddenStates(tmp_path / "none", 3, 4, 8)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(CalibrationError, match=r"No space left on device.*--work-dir"):
        HiddenStates(tmp_path, 3, 4, 8)
    assert list(tmp_path.iterdir()) == []


class Kept:
    """Sums that keep everything that is added."""

    def __init__(self) -> None:
        self.parts: list[tuple[Tensor, ...]] = []

    def add(self, missing_x: Tensor, missing_h: Tensor, h: Tensor) -> None:
        self.parts.append((missing_x, missing_h, h))

    def joined(self) -> list[Tensor]:
        return [torch.cat(part) for part in zip(*self.parts, strict=True)]


@pytest.mark.parametrize("arch", MODELS)
def test_a_reference_run_gives_the_differences_of_two_forwards_and_advances_its_rows(arch: str, tmp_path: Path) -> None:
    model, weights, seen = MODELS[arch], random_weights(arch), range(3)
    start, block = embedded(arch, weights), of_block(weights, 1)
    streams = [HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, arch == "rwkv7", name=name) for name in ("hidden", "reference")]
    for stream, x in zip(streams, (start, 1.1 * start + 0.1), strict=True):
        stream.fill(lambda rows, x=x: x[rows], 2)
        advance(model.block, of_block(weights, 0), stream, 2)
    before = [stream.read(slice(0, ROWS)) for stream in streams]
    heard: list[dict[str, Tensor]] = [{}, {}]
    after = [model.block(block, x, None, carry, into.__setitem__) for (x, carry), into in zip(before, heard, strict=True)]

    sums = {name: Kept() for name in ARCHITECTURES[arch].input_parts}
    with torch.no_grad():
        collect_block(
            model.block, block, ARCHITECTURES[arch], streams[0], 2, seen, reference=ReferenceRun(model.block, block, sums, streams[1])
        )
    assert len(sums) > 5 and ("att.maa_hidden.4" in sums) == (arch == "rwkv6")
    for name, kept in sums.items():
        whole_name, _, index = name.rpartition(".")
        full, quantised = (of[whole_name][int(index)] if index.isdigit() else of[name] for of in (heard[1], heard[0]))
        expected = (before[1][0] - before[0][0], full - quantised, quantised)
        for result, whole in zip(kept.joined(), expected, strict=True):
            torch.testing.assert_close(result, whole[: len(seen)], rtol=1e-4, atol=1e-5)
    advance(model.block, block, streams[1], 2, range(len(seen), ROWS))
    torch.testing.assert_close(streams[1].read(slice(0, ROWS))[0], after[1][0], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arch", MODELS)
def test_a_run_that_dies_while_it_advances_continues_from_the_block_before(arch: str, tmp_path: Path) -> None:
    """Nothing that it wrote of the next block's input is used."""
    model, weights, x = MODELS[arch], random_weights(arch), None
    carries = arch == "rwkv7"
    x = embedded(arch, weights)
    first = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, carries)
    first.fill(lambda rows: x[rows], 2)
    for layer in range(LAYERS):
        state, expected = json.loads(json.dumps(first.state())), first.read(slice(0, ROWS))
        first.write(slice(0, 2), torch.full((2, LENGTH, WIDTH), torch.nan), torch.full((2, LENGTH, WIDTH), torch.nan) if carries else None)
        second = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, carries)
        assert second.restore(state)
        for result, whole in zip(second.read(slice(0, ROWS)), expected, strict=True):
            assert (result is None) == (whole is None) and (result is None or torch.equal(result, whole))
        advance(model.block, of_block(weights, layer), second, 2)
        first = second


def test_hidden_states_that_have_changed_are_detected(tmp_path: Path) -> None:
    weights = random_weights("rwkv7")
    x = embedded("rwkv7", weights)
    stream = HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, with_carry=True)
    stream.fill(lambda rows: x[rows], 2)
    advance(rwkv7.block, of_block(weights, 0), stream, 2)
    state = stream.state()
    for name, noticed in (("hidden.1.f32", True), ("hidden_carry.f32", True), ("hidden.0.f32", False)):  # the last will be written again
        whole = (tmp_path / name).read_bytes()
        for damage in (whole[:-4] + b"\1\2\3\4", whole[:-4]):
            (tmp_path / name).write_bytes(damage)
            assert HiddenStates(tmp_path, ROWS, LENGTH, WIDTH, with_carry=True).restore(state) != noticed
            (tmp_path / name).write_bytes(whole)
