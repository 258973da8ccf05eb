"""Scales that are folded into what makes an input: the model computes the same as with run-time scales, and they take no bytes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import DenseTensor, GridConfig, UniformTensor, codec_of
from rwkvquant.codecs.base import Codec
from rwkvquant.codecs.registry import codecs
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.models import CheckpointSource, PackedSource, QuantizedMatrix, TorchModel, forward_of
from rwkvquant.pipeline import folding, tasks, tensors
from rwkvquant.pipeline.blocks import CalibrationRun
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.runtime.session import load
from tests.helpers import TEXT
from tests.llama import write_llama
from tests.pipeline.toys import TINY, Notes, calibration_text, checkpoint_file, opened, recipe_of

TOKENS = [7, 250, 3, 99, 99, 0, 42, 17, 5, 200, 31]
HALF = 2.0**-11  # what rounding to float16 may change, relative
AT_RUN_TIME = {  # in a block; all other matrices have no transform
    "rwkv6": {
        *(f"att.{name}.weight" for name in ("receptance", "key", "value", "gate")),
        *("att.time_maa_w1", "att.time_decay_w1", "att.time_decay_w2"),
        *(f"att.time_maa_w2.{i}" for i in range(5)),
        *("ffn.key.weight", "ffn.receptance.weight"),
    },
    "rwkv7": {
        *(f"att.{name}.weight" for name in ("receptance", "key", "value")),
        *("att.w1", "att.w2", "att.a1", "att.v1", "att.g1", "att.g2"),
    },
}
FOLDED = {"rwkv6": {"att.output.weight", "ffn.value.weight"}}
FOLDED |= {"rwkv7": FOLDED["rwkv6"] | {"ffn.key.weight", "att.a2", "att.v2"}}


def made(folder: Path, arch: str, name: str, *own: str, notes: Notes | None = None, layers: int = 2, **options: Any) -> PackedFile:
    source, text = checkpoint_file(folder, arch, **TINY | {"layers": layers}), calibration_text(folder, rows=4)
    recipe = recipe_of(method="awq", **{"code_bits": 4, "clip_search": "none"} | options, own_options=own, calibration=text)
    result, planned = quantize(source, folder / name, recipe, progress=notes), plan_only(source, recipe)
    packed = opened(folder / name)
    if notes is None or not notes.notes:
        assert {t.name: t.stored_bytes for t in planned.tensors} == {t.name: t.stored_bytes for t in packed.ledger().items}
    counted = {item.name: item.stored_bytes for item in packed.ledger().items if item.role in ("projection", "lora")}
    weights = sum(item.weights for item in packed.ledger().items if item.name in counted)
    assert result.bits_per_weight == 8 * sum(counted.values()) / weights
    return packed


def logits(packed: PackedFile, forward: str) -> np.ndarray:
    if forward == "torch":
        return TorchModel(PackedSource(packed)).forward(torch.tensor([TOKENS]))[0][0].numpy()
    return load(packed.path, activations=forward).forward(TOKENS, logits="all")[0]


def at_run_time(block: dict[str, folding.Finished], producers: Any) -> dict[str, folding.Finished]:
    """In place of `folded`: the same codes, with every scale stored and applied at run time."""
    unmarked = {key: replace(each.tensor, transform=replace(each.tensor.transform, folded=False)) for key, each in block.items()}
    return {key: replace(each, tensor=unmarked[key]) for key, each in block.items()}


@pytest.fixture
def one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block sees what the original blocks before it give, so rounding of scales does not change the codes of later blocks."""
    advance = CalibrationRun.advance
    monkeypatch.setattr(CalibrationRun, "advance", lambda self, quantised, block, layer: advance(self, block, block, layer))


def both(folder: Path, arch: str, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[PackedFile, PackedFile]:
    folded = made(folder, arch, "folded", **options)
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "folded", at_run_time)
        patch.setattr(tensors.Progress, "note", lambda self, sentence: None)
        return folded, made(folder, arch, "at run time", notes=Notes(), **options)


def same_codes(one: PackedFile, other: PackedFile) -> bool:
    names = [name for name in one.tensors if isinstance(one.qtensor(name), UniformTensor)]
    pairs = [(one.qtensor(name), other.qtensor(name)) for name in names]
    return all(np.array_equal(a.codes, b.codes) and np.array_equal(a.zeros, b.zeros) for a, b in pairs)  # type: ignore[union-attr]


@pytest.mark.parametrize("arch", TEXT)
def test_which_matrices_have_a_scale_left(tmp_path: Path, arch: str) -> None:
    packed = made(tmp_path, arch, "out")
    for layer in range(2):
        inside = {name.removeprefix(f"blocks.{layer}."): name for name in packed.tensors if name.startswith(f"blocks.{layer}.")}
        left = {key for key, name in inside.items() if packed.input_transform(name).name == "column-scale"}
        assert left == AT_RUN_TIME[arch] - ({"att.v1"} if layer == 0 else set())
        moved = {key for key, name in inside.items() if "scale_folded_into" in packed.entry(name).extra}
        assert moved == FOLDED[arch] - ({"att.v2"} if layer == 0 else set())
        producers = [f"blocks.{layer}.{key}" for key in ARCHITECTURES[arch].producers["att.out"].tensors]
        assert packed.entry(inside["att.output.weight"]).extra["scale_folded_into"] == producers
    unfolded = made(tmp_path, arch, "unfolded", "fold=no")
    bytes_of_scales = sum(  # float16, padded to 64 bytes
        -(-2 * packed.tensors[name].shape[1] // 64) * 64 for name, entry in packed.tensors.items() if "scale_folded_into" in entry.extra
    )
    data = [sum(item.stored_bytes for item in each.ledger().items) for each in (unfolded, packed)]
    assert data[0] - data[1] == bytes_of_scales > 0
    assert all((unfolded.input_transform(name).name == "column-scale") == (entry.role in ("projection", "lora"))
               for name, entry in unfolded.tensors.items())  # fmt: skip


@pytest.mark.parametrize("scale_bits", [8, 16])
@pytest.mark.parametrize("arch", TEXT)
def test_the_model_computes_what_it_computes_with_scales_at_run_time(
    tmp_path: Path, arch: str, scale_bits: int, monkeypatch: pytest.MonkeyPatch, one_stream: None
) -> None:
    folded, unfolded = both(tmp_path, arch, monkeypatch, bits=4, code_bits=None, scale_bits=scale_bits)
    assert same_codes(folded, unfolded)
    for forward, steps in (("torch", 16), ("float32", 16), ("int8", 128)):  # int8 rounds a few activations to the next of 127 steps
        ours, theirs = logits(folded, forward), logits(unfolded, forward)
        assert 0 < np.abs(ours - theirs).max() <= steps * HALF * np.abs(theirs).max()


@pytest.mark.parametrize("arch", TEXT)
def test_with_powers_of_four_it_is_the_same_to_the_last_bit(
    tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch, one_stream: None
) -> None:
    """Their roots are powers of two, and a product with those is exact, in float16 and in every forward."""
    powers = np.tile(np.float16([1, 0.25, 1, 4]), 64)
    monkeypatch.setattr(tasks, "best_scale", lambda matrices, H, rounded: powers[: len(H)].copy())
    folded, unfolded = both(tmp_path, arch, monkeypatch, bits=4, code_bits=None, scale_bits=16)
    assert same_codes(folded, unfolded)
    if arch == "rwkv7":
        gains = [each.decode("blocks.1.ln2.weight") for each in (folded, unfolded)]
        assert np.array_equal(gains[0] * powers[:64], gains[1])
    scales = [each.qtensor("blocks.1.ffn.key.weight").scales for each in (folded, unfolded)]  # type: ignore[union-attr]
    assert np.array_equal(scales[0] * np.sqrt(powers[:96] / 16)[:, None], scales[1])
    for forward in ("torch", "float32", "int8"):
        assert np.array_equal(logits(folded, forward), logits(unfolded, forward))


@pytest.mark.parametrize("arch", TEXT)
def test_later_blocks_are_quantised_for_what_the_file_gives(tmp_path: Path, arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    advance = CalibrationRun.advance

    def listening(self: CalibrationRun, quantised: Any, block: Any, layer: int) -> None:
        seen.append(dict(quantised))
        advance(self, quantised, block, layer)

    monkeypatch.setattr(CalibrationRun, "advance", listening)
    packed = made(tmp_path, arch, "out")

    def decoded(weight: Tensor | QuantizedMatrix) -> Tensor:
        return weight.decode() if isinstance(weight, QuantizedMatrix) else weight

    for layer, weights in enumerate(seen[:2]):
        stored = PackedSource(packed).block(layer)
        for key in stored:
            assert torch.equal(decoded(weights[key]), decoded(stored[key])), key


@pytest.mark.long
def test_a_killed_job_writes_the_same_file(tmp_path: Path) -> None:
    source, recipe = (
        checkpoint_file(tmp_path, "rwkv7", **TINY),
        recipe_of(method="awq", code_bits=4, calibration=calibration_text(tmp_path, 4)),
    )
    quantize(source, tmp_path / "whole", recipe)
    calls = iter([False, True])
    with pytest.raises(Exception, match="stopped"):
        quantize(source, tmp_path / "parts", recipe, work_dir=tmp_path / "work", stop=lambda: next(calls))
    quantize(source, tmp_path / "parts", recipe, work_dir=tmp_path / "work", resume="required")
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_scale_that_float16_cannot_hold_stays_at_run_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel of ffn.value's input: row 5 of ffn.key would lose its digits, or overflow. The file says so, and is right."""
    for extreme in (2.0**-9, 2.0**9):
        best = tasks.best_scale

        def spoilt(matrices: Any, H: Tensor, rounded: Any, best: Any = best, extreme: float = extreme) -> np.ndarray:
            scale = best(matrices, H, rounded)
            if len(H) == TINY["hidden"]:
                scale[5] = extreme
            return scale

        notes = Notes()
        with monkeypatch.context() as patch:
            patch.setattr(tasks, "best_scale", spoilt)
            if extreme < 1:
                patch.setattr(codec_of(GridConfig()), "rows_scaled", too_large)
            packed = made(tmp_path, "rwkv7", "out", notes=notes, layers=1, code_bits=8)
        name = "blocks.0.ffn.value.weight"
        assert packed.input_transform(name).name == "column-scale" and "scale_folded_into" not in packed.entry(name).extra
        assert any(f"input of {name} is applied at run time" in note for note in notes.notes)
        ours, theirs = (logits(packed, forward) for forward in ("float32", "torch"))
        assert np.isfinite(ours).all() and np.abs(ours - theirs).max() <= 1e-3 * np.abs(theirs).max()


def too_large(tensor: UniformTensor, factors: np.ndarray) -> UniformTensor:
    assert tensor.row_scale is not None
    return replace(tensor, row_scale=np.full_like(tensor.row_scale, np.inf))


def test_channels_with_tiny_and_zero_values_can_be_folded() -> None:
    """A bias that is small next to its gain loses nothing that counts; a gain that becomes subnormal does."""
    gain, bias = DenseTensor(np.float16([1, 0, 2])), DenseTensor(np.float16([1e-6, 0, 0]))
    assert folding._scaled([gain, bias], np.array([1 / 300, 3, 1.5])) is not None
    assert folding._scaled([gain, bias], np.array([2.0**-20 / 3, 1, 1])) is None
    assert folding._scaled([gain, bias], np.array([1, 1, 60000])) is None


@pytest.mark.parametrize("arch", [*TEXT, "llama"])
def test_the_table_of_producers_is_right(tmp_path: Path, arch: str) -> None:
    """By definition: producers times c**power and columns of all readers by c give the same block, and x times c."""
    source = write_llama(tmp_path / arch) if arch == "llama" else checkpoint_file(tmp_path, arch, **TINY)
    checkpoint = open_checkpoint(source)
    own, module = checkpoint.architecture, forward_of(arch)
    weights = {key: W.double() for key, W in CheckpointSource(checkpoint).block(1).items()}
    draws = torch.Generator().manual_seed(0)
    x, carry = (torch.randn(2, 9, TINY["width"], generator=draws).double() for _ in range(2))
    assert own.producers
    for name, producer in own.producers.items():
        taps: list[dict[str, Tensor]] = [{}, {}]
        plain, _, _ = module.block(weights, x, None, carry, lambda key, y, to=taps[0]: to.__setitem__(key, y))
        c = torch.exp(torch.randn(taps[0][name].shape[-1], generator=draws)).double()
        changed = dict(weights)
        for key in producer.tensors:
            rows = c**producer.power
            changed[key] = weights[key] * (rows[:, None] if weights[key].ndim == 2 else rows)
        readers = [spec.name for spec in own.table if spec.input == name]
        for key in readers:
            changed[key] = changed[key] / c
        result, _, _ = module.block(changed, x, None, carry, lambda key, y, to=taps[1]: to.__setitem__(key, y))
        assert readers and torch.allclose(result, plain, rtol=1e-10, atol=1e-10)
        assert torch.allclose(taps[1][name], taps[0][name] * c, rtol=1e-9, atol=1e-10)
        if producer.mixes:  # the same for any matrix in place of diag(c)
            M = torch.randn(len(c), len(c), generator=draws).double()
            turned = weights | {key: M @ weights[key] for key in producer.tensors} | {key: weights[key] @ M.inverse() for key in readers}
            result, _, _ = module.block(turned, x, None, carry, lambda key, y, to=taps[1]: to.__setitem__(key, y))
            assert torch.allclose(result, plain, rtol=1e-9, atol=1e-9)
            assert torch.allclose(taps[1][name], taps[0][name] @ M.T, rtol=1e-9, atol=1e-9)


def test_llama_folds_all_but_attentions_output(tmp_path: Path) -> None:
    recipe = recipe_of(method="awq", code_bits=4, calibration=calibration_text(tmp_path, rows=4), tokenizer="bytes")
    quantize(write_llama(tmp_path / "llama"), tmp_path / "out", recipe)
    packed = open_packed(tmp_path / "out")
    left = {name.split(".", 3)[3] for name in packed.tensors if packed.input_transform(name).name != "none"}
    assert left == {"self_attn.o_proj.weight"}


def test_a_codec_says_whether_it_can_scale_rows() -> None:
    """Callers ask `scales_rows` first, so it must be true of every codec."""
    assert all(codec.scales_rows == (type(codec).rows_scaled is not Codec.rows_scaled) for codec in codecs())
