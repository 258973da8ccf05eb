"""An adapter is merged as its definition says, computed here in float64; what does not fit is refused by name and shape."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.main import run
from rwkvquant.config import CalibrationConfig, QuantizeRequest
from rwkvquant.errors import CheckpointError, RwkvQuantError, StoppedError
from rwkvquant.formats.container import open_packed
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.runtime.session import load
from tests.checkpoints.layouts import fla_rwkv7, write_directory
from tests.checkpoints.writers import write_zip
from tests.helpers import random_state_dict, write_pth

Tensors = dict[str, torch.Tensor]
WIDTH, HIDDEN, R = 32, 80, 4
KEY, FFN = "blocks.0.att.key", "blocks.1.ffn.key"  # (32, 32) and (80, 32)
ROWS = {KEY: WIDTH, FFN: HIDDEN}


def model(arch: str = "rwkv7") -> Tensors:
    return random_state_dict(arch, layers=2, width=WIDTH, hidden=HIDDEN, head_size=8)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def lora_of(end: str = "", prefix: str = "", seed: int = 0) -> Tensors:
    tensors = {}
    for name, rows in ROWS.items():
        tensors[f"{prefix}{name}.lora_A{end}"] = draw(R, WIDTH, seed=seed)
        tensors[f"{prefix}{name}.lora_B{end}"] = draw(rows, R, seed=seed)
    return tensors


def peft(path: Path, tensors: Tensors, **config: Any) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": R, "lora_alpha": 24, **config}))
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path / "adapter_model.safetensors")
    return path


def base(tmp_path: Path, tensors: Tensors) -> Path:
    return write_pth(tmp_path / "base.pth", tensors)


def check(tmp_path: Path, tensors: Tensors, adapter: str | Path, expected: Callable[[np.ndarray, str], np.ndarray]) -> None:
    """`expected`: W in float64 and a module's name -> the merged W. Every other tensor is as it was."""
    checkpoint = open_checkpoint(base(tmp_path, tensors), str(adapter))
    for name, tensor in tensors.items():
        values, module = checkpoint.read(name), name.removesuffix(".weight")
        if module in ROWS:
            W = expected(tensor.double().numpy(), module)
            assert abs(W - tensor.double().numpy()).max() > 1e-3
            np.testing.assert_allclose(values, W, atol=4e-7 * R, err_msg=name)  # a few roundings of float32
            np.testing.assert_array_equal(checkpoint.read_matrix(name), values)
        else:
            np.testing.assert_array_equal(values, tensor.numpy(), err_msg=name)


def f64(tensors: Tensors, name: str) -> np.ndarray:
    return tensors[name].double().numpy()


def test_lora_of_rwkv_peft(tmp_path: Path) -> None:
    adapter = lora_of()
    path = write_pth(tmp_path / "rwkv-0.pth", adapter)
    check(tmp_path, model(), f"{path},alpha=24", lambda W, m: W + 24 / R * f64(adapter, f"{m}.lora_B") @ f64(adapter, f"{m}.lora_A"))


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_lora_of_peft(tmp_path: Path, arch: str, rslora: bool) -> None:
    adapter = lora_of(".weight")
    path = peft(tmp_path / "adapter", {f"base_model.model.{name}": t for name, t in adapter.items()}, use_rslora=rslora)
    scale = 24 / (math.sqrt(R) if rslora else R)
    for given in (path, path / "adapter_model.safetensors"):
        check(
            tmp_path, model(arch), given, lambda W, m: W + scale * f64(adapter, f"{m}.lora_B.weight") @ f64(adapter, f"{m}.lora_A.weight")
        )


def test_fan_in_fan_out_is_of_a_weight_that_is_stored_transposed(tmp_path: Path) -> None:
    tensors = {
        f"{KEY}.lora_A": draw(R, WIDTH),
        f"{KEY}.lora_B": draw(WIDTH, R),
        f"{FFN}.lora_A": draw(R, HIDDEN),
        f"{FFN}.lora_B": draw(WIDTH, R),
    }
    path = peft(tmp_path / "adapter", tensors, fan_in_fan_out=True)
    check(tmp_path, model(), path, lambda W, m: W + 6 * (f64(tensors, f"{m}.lora_B") @ f64(tensors, f"{m}.lora_A")).T)


def test_pissa_takes_what_training_began_with_from_the_weight(tmp_path: Path) -> None:
    now, first = lora_of(), lora_of(seed=9)
    path = write_pth(tmp_path / "rwkv-3.pth", now)
    initial = {name.replace(".lora_", ".init_lora_"): tensor for name, tensor in first.items()}
    write_pth(tmp_path / "init_pissa.pth", initial)

    def expected(W: np.ndarray, m: str) -> np.ndarray:
        return W - f64(first, f"{m}.lora_B") @ f64(first, f"{m}.lora_A") + f64(now, f"{m}.lora_B") @ f64(now, f"{m}.lora_A")

    check(tmp_path, model(), f"{path},init={tmp_path / 'init_pissa.pth'}", expected)


@pytest.mark.parametrize("r", [4, 5, 32])
@pytest.mark.parametrize("kind", ["disha", "bone_block", "miss_block"])
def test_bone_adds_one_shard_to_every_piece_of_the_input(tmp_path: Path, kind: str, r: int) -> None:
    """The layer adds sum over pieces x[i + n r] D[i] to its output; the last piece may be short."""
    shards = {f"{name}.{kind}": draw(r, rows) for name, rows in ROWS.items()}
    path = write_pth(tmp_path / "a.pth", shards) if kind == "disha" else peft(tmp_path / "a", shards, peft_type=kind[:4].upper())

    def expected(W: np.ndarray, m: str) -> np.ndarray:
        D, X = f64(shards, f"{m}.{kind}"), np.eye(WIDTH)
        pad = np.pad(X, ((0, 0), (0, -WIDTH % r))).reshape(WIDTH, -1, r)
        return (X @ W.T + pad.sum(axis=1) @ D).T

    check(tmp_path, model(), path, expected)


def test_miss_in_its_mini_form_repeats_a_shard_along_the_output(tmp_path: Path) -> None:
    shards = {f"{name}.miss_block": draw(R, 16) for name in ROWS}
    path = peft(tmp_path / "a", shards, peft_type="MISS", init_weights="mini", mini_r=16)
    check(
        tmp_path,
        model(),
        path,
        lambda W, m: np.array(
            [[W[o, i] + f64(shards, f"{m}.miss_block")[i % R, o % 16] for i in range(W.shape[1])] for o in range(len(W))]
        ),
    )


@pytest.mark.parametrize(("kind", "by_columns"), [("disha", True), ("bone", True), ("bone_block", False), ("miss_block", False)])
def test_bat_multiplies_blocks(tmp_path: Path, kind: str, by_columns: bool) -> None:
    shards = {f"{name}.{kind}": draw((WIDTH if by_columns else rows) // R, R, R) for name, rows in ROWS.items()}
    path = write_pth(tmp_path / "a.pth", shards) if by_columns else peft(tmp_path / "a", shards, peft_type=kind[:4].upper())

    def expected(W: np.ndarray, m: str) -> np.ndarray:
        D, merged = f64(shards, f"{m}.{kind}"), W.copy()
        for a in range(len(W) // R):
            for b in range(W.shape[1] // R):
                at = np.s_[a * R : a * R + R, b * R : b * R + R]
                own = D[b if by_columns else a]
                merged[at] = W[at] + W[at] @ own + own
        return merged

    check(tmp_path, model(), path, expected)


def test_whole_tensors_in_an_adapter_replace_the_models(tmp_path: Path) -> None:
    tensors, adapter = model(), lora_of()
    adapter |= {"blocks.0.ln1.weight": draw(WIDTH), "blocks.0.att.x_k": draw(WIDTH)}
    checkpoint = open_checkpoint(base(tmp_path, tensors), f"{write_pth(tmp_path / 'a.pth', adapter)},alpha=8")
    np.testing.assert_array_equal(checkpoint.read("blocks.0.ln1.weight"), adapter["blocks.0.ln1.weight"].numpy())
    np.testing.assert_array_equal(checkpoint.read("blocks.0.att.x_k"), adapter["blocks.0.att.x_k"].numpy().reshape(1, 1, -1))


def test_names_of_fla_are_found_and_its_factors_transposed(tmp_path: Path) -> None:
    """The base is a directory of fla; the adapter changes a projection, and a factor of a LoRA pair that fla keeps as a Linear."""
    tensors = model()
    path = write_directory(tmp_path / "model", fla_rwkv7(tensors))
    begin = "base_model.model.model.layers.1.attn."
    names = {"k_proj": (WIDTH, WIDTH), "w_lora.lora.0": (16, WIDTH)}
    adapter = {
        f"{begin}{name}.lora_{part}.weight": draw(*shape)
        for name, (o, i) in names.items()
        for part, shape in {"A": (R, i), "B": (o, R)}.items()
    }
    checkpoint = open_checkpoint(path, str(peft(tmp_path / "adapter", adapter)))
    for ours, theirs in {"blocks.1.att.key.weight": "k_proj", "blocks.1.att.w1": "w_lora.lora.0"}.items():
        W = f64(tensors, ours) if theirs == "k_proj" else f64(tensors, ours).T
        W = W + 6 * f64(adapter, f"{begin}{theirs}.lora_B.weight") @ f64(adapter, f"{begin}{theirs}.lora_A.weight")
        np.testing.assert_allclose(checkpoint.read(ours), W if theirs == "k_proj" else W.T, atol=2e-6)


def _changed(**changes: torch.Tensor | None) -> Tensors:
    tensors = lora_of() | {name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None}
    return {name: tensor for name, tensor in tensors.items() if changes.get(name.replace(".", "__"), 0) is not None}


WRONG: dict[str, tuple[Tensors, str]] = {
    "no such layer": (
        _changed(blocks__7__att__key__lora_A=draw(R, WIDTH)),
        r"blocks\.7\.att\.key\.lora_A is for blocks\.7\.att\.key\.weight.*no such tensor",
    ),
    "no such name": ({"layer.q.lora_A": draw(R, WIDTH), "layer.q.lora_B": draw(WIDTH, R)}, r"layer\.q\.lora_A is for layer\.q\.weight"),
    "width": (
        _changed(blocks__0__att__key__lora_A=draw(R, 16)),
        r"key\.lora_A must have the shape \(r, 32\) for blocks\.0\.att\.key\.weight; got \(4, 16\)",
    ),
    "rows": (_changed(blocks__0__att__key__lora_B=draw(16, R)), r"key\.lora_B must have the shape \(32, 4\).*got \(16, 4\)"),
    "rank": (
        _changed(blocks__0__att__key__lora_B=draw(WIDTH, 8)),
        r"lora_B must have the shape \(32, 4\).*4 as in .*lora_A; got \(32, 8\)",
    ),
    "half": (_changed(blocks__0__att__key__lora_B=None), r"key\.lora_A has no lora_B"),
    "kind": ({"blocks.0.att.key.hada_w1_a": draw(R, WIDTH)}, r"hada_w1_a is of the kind hada_w1_a"),
    "magnitude": (_changed(blocks__0__att__key__lora_magnitude_vector=draw(WIDTH)), r"of the kind lora_magnitude_vector"),
    "whole tensor": (
        _changed(blocks__0__ln1__weight=draw(9)),
        r"blocks\.0\.ln1\.weight must have the shape \(32,\) of blocks\.0\.ln1\.weight; got \(9,\)",
    ),
    "no adapter": ({"blocks.0.ln1.weight": draw(WIDTH)}, r"holds no adapter; its first tensor is blocks\.0\.ln1\.weight"),
    "vector": (
        {"blocks.0.ln1.lora_A": draw(R, WIDTH), "blocks.0.ln1.lora_B": draw(WIDTH, R)},
        r"only matrices have adapters; blocks\.0\.ln1\.lora_A",
    ),
    "not finite": (_changed(blocks__0__att__key__lora_A=draw(R, WIDTH) * float("nan")), r"must be finite; .*lora_A"),
    "beyond float32": (
        _changed(blocks__0__att__key__lora_A=torch.full((R, WIDTH), 3e38)),
        r"blocks\.0\.att\.key\.weight is not finite after",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_adapter_is_refused_by_name_and_shape(tmp_path: Path, case: str) -> None:
    tensors, message = WRONG[case]
    path = write_pth(tmp_path / "a.pth", tensors)
    with pytest.raises(CheckpointError, match=rf"a\.pth: .*{message}"):
        open_checkpoint(base(tmp_path, model()), f"{path},alpha=1e3").read(f"{KEY}.weight")


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({f"{KEY}.disha": draw(R, 16)}, r"key\.disha must have the shape \(r, 32\) .*got \(4, 16\)"),
        ({f"{KEY}.disha": draw(40, WIDTH)}, r"r at most 32; got \(40, 32\)"),
        ({f"{KEY}.disha": draw(7, R, R)}, r"key\.disha must have the shape \(32/r, r, r\).*got \(7, 4, 4\)"),
        ({f"{KEY}.bone": draw(WIDTH, R)}, r"old version of Bone"),
        ({f"{KEY}.disha": draw(R, WIDTH), f"{KEY}.lora_A": draw(R, WIDTH)}, "one module has one adapter"),
    ],
    ids=str,
)
def test_a_wrong_bone_is_refused_by_name_and_shape(tmp_path: Path, tensors: Tensors, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(base(tmp_path, model()), str(write_pth(tmp_path / "a.pth", tensors)))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LOHA"}, "peft_type in adapter_config.json must be one of LORA, BONE, MISS; got 'LOHA'"),
        ({"r": 8}, r"says r = 8, but .*lora_A.weight has the rank 4"),
        ({"lora_alpha": "24"}, "lora_alpha in adapter_config.json must be a positive number"),
        ({"use_dora": True}, "use_dora .* means DoRA"),
        ({"alpha_pattern": {"key": 8}}, "alpha_pattern .* cannot be merged"),
        ({"bias": "all"}, "bias in adapter_config.json must be none"),
        (
            {"init_lora_weights": "pissa_niter_16"},
            "'pissa_niter_16', so training changed the base model first.*path_initial_model_for_weight",
        ),
    ],
    ids=str,
)
def test_a_config_that_cannot_be_merged_truthfully_is_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    path = peft(tmp_path / "adapter", lora_of(".weight"), **config)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(base(tmp_path, model()), str(path))


def test_a_scale_that_no_file_gives_is_asked_for(tmp_path: Path) -> None:
    path, model_path = write_pth(tmp_path / "a.pth", lora_of()), base(tmp_path, model())
    with pytest.raises(CheckpointError, match=r"does not say its alpha, which scales .*lora_A: give FILE,alpha=NUMBER .* FILE,init=FILE"):
        open_checkpoint(model_path, str(path))
    for alpha in ("x", "-1", "nan", ""):
        with pytest.raises(CheckpointError, match="alpha of an adapter must be a positive number"):
            open_checkpoint(model_path, f"{path},alpha={alpha}")
    with pytest.raises(CheckpointError, match=r"must have .*lora_A with the shape \(4, 32\); it is missing"):
        open_checkpoint(model_path, f"{path},init={write_pth(tmp_path / 'b.pth', {'x': draw(3)})}")


def test_a_scale_is_given_once(tmp_path: Path) -> None:
    path, model_path = peft(tmp_path / "adapter", lora_of(".weight")), base(tmp_path, model())
    for given in (f"{path},alpha=8", f"{path},init={path / 'adapter_model.safetensors'}"):
        with pytest.raises(CheckpointError, match=r"adapter_config\.json gives the scale of this adapter; alpha and init are for files"):
            open_checkpoint(model_path, given)


def test_nothing_that_a_pickle_names_is_run(tmp_path: Path) -> None:
    bomb = write_zip(tmp_path / "a.pth", b"cbuiltins\nexec\n(X\x1d\x00\x00\x00raise SystemExit('it has run')tR.")
    with pytest.raises(CheckpointError, match=r"the adapter .*a\.pth: .*asks for builtins\.exec.*nothing was run"):
        open_checkpoint(base(tmp_path, model()), str(bomb))


def test_an_adapter_of_a_tied_head_is_refused(tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in model().items() if name != "head.weight"}
    path = base(tmp_path, tensors)
    (tmp_path / "config.json").write_text('{"tie_word_embeddings": true}')
    adapter = {"head.lora_A": draw(R, WIDTH), "head.lora_B": draw(256, R)}
    with pytest.raises(CheckpointError, match=r"it changes head\.weight, but in this checkpoint the head is the embedding"):
        open_checkpoint(path, f"{write_pth(tmp_path / 'a.pth', adapter)},alpha=4")


def test_quantising_merges_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The packed file is that of a checkpoint with the merged weights; the adapter is in its provenance."""
    tensors, adapter = model(), lora_of()
    path, given = base(tmp_path, tensors), f"{write_pth(tmp_path / 'a.pth', adapter)},alpha=24"
    merged = open_checkpoint(path, given)
    write_pth(tmp_path / "merged.pth", {name: torch.from_numpy(merged.read(name)) for name in tensors})
    options = ["--method", "rtn", "--bits", "4.5"]
    assert run(["quantize", str(path), "-o", str(tmp_path / "a.safetensors"), *options, "--adapter", given]) == 0
    assert run(["quantize", str(tmp_path / "merged.pth"), "-o", str(tmp_path / "b.safetensors"), *options]) == 0
    assert run(["quantize", str(path), "-o", str(tmp_path / "c.safetensors"), *options]) == 0
    a, b, c = (load(tmp_path / f"{name}.safetensors", tokenizer="bytes", threads=1).forward([1, 2, 3])[0] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert not np.allclose(a, c)
    packed, plain = open_packed(tmp_path / "a.safetensors"), open_packed(tmp_path / "c.safetensors")
    assert packed.provenance["adapter"] == "a.pth" and packed.provenance["adapter_sha256"] == merged.adapter.sha256  # type: ignore[union-attr]
    assert "adapter" not in plain.provenance and "adapter" not in plain.quantization_config["options"]
    capsys.readouterr()
    assert run(["quantize", str(path), "-o", str(tmp_path / "d.safetensors"), *options, "--adapter", given.replace("=24", "=x")]) == 2
    assert "must be a positive number" in " ".join(capsys.readouterr().err.split())
    assert run(["quantize", str(path), "-o", str(tmp_path / "d.safetensors"), *options, "--adapter", given, "--card"]) == 2


def test_another_adapter_or_alpha_is_another_job(tmp_path: Path) -> None:
    path, first, second = base(tmp_path, model()), write_pth(tmp_path / "a.pth", lora_of()), write_pth(tmp_path / "b.pth", lora_of(seed=3))
    sums = [open_checkpoint(path, given).made_from() for given in ("", f"{first},alpha=8", f"{first},alpha=9", f"{second},alpha=8")]
    assert len({tuple(each.items()) for each in sums}) == 4 and sums[0] == {"checkpoint": open_checkpoint(path).sha256()}
    assert {each["checkpoint"] for each in sums} == {sums[0]["checkpoint"]}
    first.rename(tmp_path / "c.pth")
    assert open_checkpoint(path, f"{tmp_path / 'c.pth'},alpha=8").made_from() == sums[1]
    assert QuantizeRequest(adapter=tmp_path).adapter == str(tmp_path)  # type: ignore[arg-type]


def test_a_job_with_another_adapter_does_not_continue(tmp_path: Path) -> None:
    path, first, second = base(tmp_path, model()), write_pth(tmp_path / "a.pth", lora_of()), write_pth(tmp_path / "b.pth", lora_of(seed=3))

    def job(adapter: str | None, stop: bool, resume: str) -> None:
        calibration = CalibrationConfig(rows=2, length=32)
        request = QuantizeRequest(method="gptq", bits=4.5, calibration=calibration, adapter=adapter, tokenizer="bytes")
        quantize(path, tmp_path / "o.safetensors", request, work_dir=tmp_path / "work", resume=resume, stop=lambda: stop)

    with pytest.raises(StoppedError):
        job(f"{first},alpha=8", True, "auto")
    for other in (f"{second},alpha=8", f"{first},alpha=9", None):
        with pytest.raises(RwkvQuantError, match=r"was made with another (plan, )?adapter") as caught:
            job(other, False, "required")
        assert "checkpoint" not in str(caught.value)
    job(f"{first},alpha=8", False, "required")
