"""The proof of docs/extending.md: toy_codec.py and toy_recipe.py are all that there is of a codec and of a method.

They are quantised, packed, verified, run, measured, exported and listed, by Python and by the command line, without an edit elsewhere.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant import CalibrationConfig, QuantizeRequest, load, quantize
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.cli.main import run
from rwkvquant.codecs import GridConfig, PackedTensor, codecs, config_from_json, layout_ids
from rwkvquant.errors import ConfigError, FormatError, StoppedError
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels import dispatch
from rwkvquant.models import PackedSource, TorchModel
from rwkvquant.pipeline.quantize import plan_only
from rwkvquant.quantizers import QuantizerOptions, methods_for, quantizer_for, quantizers
from rwkvquant.recipes import METHODS, Recipe, recipe_for
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.weights import packed_weights
from tests.extending import toy_codec, toy_recipe
from tests.extending.toy_codec import LAYOUT, TernaryConfig, TernaryTensor
from tests.pipeline.toys import TEXT, TINY, checkpoint_file

ROOT = Path(__file__).parents[2]
ROWS, LENGTH = 4, 32
TOKENS = [5, 1, 39, 0]


@pytest.fixture(autouse=True)
def toys() -> Iterator[None]:
    """Known while a test of this file runs, and at no other time."""
    toy_codec.add()
    toy_recipe.add()
    yield
    toy_recipe.remove()
    toy_codec.remove()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("extending")
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.fixture(scope="module")
def source(folder: Path) -> Path:
    return checkpoint_file(folder, "rwkv7", **TINY)


@pytest.fixture
def packed_path(folder: Path, source: Path, toys: None) -> Path:
    """Made once, by Python."""
    output = folder / "toy.safetensors"
    if not output.exists():
        quantize(source, output, request(folder))
    return output


def request(folder: Path, **options: Any) -> QuantizeRequest:
    return QuantizeRequest(method="toy", calibration=CalibrationConfig(str(folder / "text.txt"), ROWS, LENGTH), **options)


def words(folder: Path, source: Path, output: Path, *more: str) -> list[str]:
    """The same request on the command line."""
    calibration = ["--calib", str(folder / "text.txt"), "--calib-rows", str(ROWS), "--calib-len", str(LENGTH)]
    return ["quantize", str(source), "-o", str(output), "--method", "toy", *calibration, *more]


def answer(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert run([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run(list(arguments)) == 2
    return capsys.readouterr().err


# The codec by itself


@pytest.mark.parametrize("shape", [(5, 33), (1, 7), (16, 64)])
def test_a_tensor_comes_back_and_its_size_was_foretold(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    tensor = TernaryTensor(rng.integers(-1, 2, shape).astype(np.int8), rng.random(shape[0]).astype(np.float16))
    packed = PackedTensor.pack(tensor)
    assert packed.layout == TernaryConfig().layout(shape) == LAYOUT and LAYOUT in layout_ids()
    assert sum(array.nbytes for array in packed.arrays.values()) == TernaryConfig().stored_bytes(shape)
    np.testing.assert_array_equal(packed.decode(), tensor.decode())
    np.testing.assert_array_equal(packed.rows([0, shape[0] - 1]), tensor.decode()[[0, shape[0] - 1]])
    x = rng.standard_normal((2, shape[1])).astype(np.float32)
    np.testing.assert_allclose(packed.product(x), x @ tensor.decode().T, rtol=1e-5, atol=1e-5)
    assert config_from_json(TernaryConfig().to_json()) == TernaryConfig()


def test_the_quantiser_finds_the_least_error_of_all_codes() -> None:
    rng = np.random.default_rng(1)
    W = rng.standard_normal((3, 6)).astype(np.float32)
    found = quantizer_for("nearest", TernaryConfig())(torch.from_numpy(W), None, TernaryConfig(), QuantizerOptions()).decode()
    codes = np.stack(np.meshgrid(*[(-1, 0, 1)] * 6), -1).reshape(-1, 6)[:, None]  # all 729 rows of codes, each with its own best scale
    energy = np.maximum((codes * codes).sum(-1), 1)
    least = ((W * W).sum(-1) - (W * codes).sum(-1) ** 2 / energy).min(0)
    np.testing.assert_allclose(((W - found) ** 2).sum(-1), least, rtol=1e-3)  # the scale is a float16


# Quantise, with and without a pass 1, stopped and resumed


def test_a_budget_gives_some_matrices_the_toy_codec_and_others_a_grid(packed_path: Path, folder: Path) -> None:
    packed = open_packed(packed_path)
    packed.verify()
    layouts = {name: entry.layout for name, entry in packed.tensors.items()}
    projections = {layout for name, layout in layouts.items() if name.endswith(("key.weight", "value.weight"))}
    assert LAYOUT in projections and any(layout.startswith("uniform4.") for layout in projections)
    assert layouts["emb.weight"] == LAYOUT and layouts["head.weight"] == "dense.f16"
    ran = replace(recipe_for(request(folder)), forward_dtype="float32")  # what "auto" is for a small model
    assert Recipe.from_json(packed.quantization_config["recipe"]) == ran
    assert packed.summary()["bits_per_weight"] <= 3.5


def test_every_kind_of_tensor_may_have_it(folder: Path, source: Path) -> None:
    toy = toy_recipe.TERNARY
    recipe = replace(recipe_for(request(folder)), candidates=(toy,), head=(toy,), vectors=(toy,), embedding=(toy,))
    quantize(source, folder / "all.safetensors", recipe)
    packed = open_packed(folder / "all.safetensors")
    packed.verify()
    by_role = {str(entry.role): entry.layout for entry in packed.tensors.values()}
    assert {role: by_role[role] for role in ("projection", "lora", "head", "embedding")} == dict.fromkeys(
        ("projection", "lora", "head", "embedding"), LAYOUT
    )
    assert np.isfinite(load(folder / "all.safetensors").forward(TOKENS)[0]).all()


def test_a_pass_1_measures_it_and_the_plan_keeps_it(folder: Path, source: Path) -> None:
    recipe = replace(recipe_for(request(folder)), measured=True)
    quantize(source, folder / "measured.safetensors", recipe, work_dir=folder / "measured")
    plan = json.loads((folder / "measured" / "plan.json").read_text())
    assert {"ternary", "uniform"} == {candidate["codec"] for each in plan["state"]["tensors"].values() for candidate in each["candidates"]}
    open_packed(folder / "measured.safetensors").verify()


def test_a_stopped_job_goes_on_to_the_same_bytes(packed_path: Path, folder: Path, source: Path) -> None:
    output = folder / "resumed.safetensors"
    with pytest.raises(StoppedError):
        quantize(source, output, request(folder), work_dir=folder / "work", stop=lambda: True)
    quantize(source, output, request(folder), work_dir=folder / "work", resume="required")
    assert output.read_bytes() == packed_path.read_bytes()


def test_the_plan_foretells_the_size(packed_path: Path, folder: Path, source: Path) -> None:
    planned, ledger = plan_only(source, request(folder)), open_packed(packed_path).summary()
    assert planned.bits_per_weight == ledger["bits_per_weight"]


def test_tensor_bits_ask_for_it_and_name_what_there_is(folder: Path, source: Path) -> None:
    plan_only(source, request(folder, tensor_bits=("att.value=2",)))
    with pytest.raises(ConfigError, match=r"asks for 8 bits in .*; the method toy has 2, 4"):
        plan_only(source, request(folder, tensor_bits=("att.value=8",)))


# Run


def test_both_engines_and_torch_give_the_same_logits(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    weights, state = packed_weights(packed), packed.architecture.zero_state(packed.dims)
    (want,), _ = ReferenceEngine(weights).read([TOKENS], state, "all")
    (got,), _ = NativeEngine(weights, 1, "float32").read([TOKENS], state, "all")
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    logits, _ = TorchModel(PackedSource(packed)).forward(torch.tensor([TOKENS]))
    np.testing.assert_allclose(logits[0].numpy(), want, rtol=1e-3, atol=1e-4 * np.abs(want).max())


# The command line


def test_quantize_writes_the_same_bytes(packed_path: Path, folder: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(words(folder, source, folder / "cli.safetensors")) == 0

    assert (folder / "cli.safetensors").read_bytes() == packed_path.read_bytes()


def test_help_lists_the_method_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["quantize", "--help"]) == 0
    told = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "toy: three values, or grids of 4 bits" in told and "Weights of a grid that share a scale" in told


def test_an_option_of_others_is_refused_by_the_names_of_these(folder: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, *words(folder, source, folder / "x.safetensors", "--code-bits", "3"))
    others = "gptq, rtn, gptvq, kmeans, awq, quarot, gptaq, qronos and lnq"
    assert said == f"rwkvquant: code_bits is an option of {others}; the method toy does not have it\n"
    said = refusal(capsys, *words(folder, source, folder / "x.safetensors", "--group-size", "128"))
    assert said == "rwkvquant: group_size must be 32 or 64 for the method toy; got 128\n"


def test_an_option_that_only_this_method_has(folder: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "own.safetensors"
    assert run(words(folder, source, output, "--set", "ternary_embedding=no")) == 0
    packed = open_packed(output)
    assert packed.tensors["emb.weight"].layout == "dense.f16"
    assert packed.quantization_config["options"]["own_options"] == ["ternary_embedding=no"]
    assert "own_options" not in open_packed(folder / "toy.safetensors").quantization_config["options"]
    assert run(["quantize", "--help"]) == 0
    assert "ternary_embedding: [toy] Three values" in " ".join(capsys.readouterr().out.replace("│", " ").split())


@pytest.mark.parametrize(
    ("said", "method", "answer"),
    [
        ("ternary_embedding=maybe", "toy", "ternary_embedding must be yes or no for the method toy; got maybe"),
        ("ternary_embedding=no", "rtn", "ternary_embedding is an option of toy; the method rtn does not have it"),
        ("nothing=1", "toy", "nothing is an option of no method; the method toy does not have it"),
        ("ternary_embedding", "toy", "a method's own option is given as NAME=VALUE; got 'ternary_embedding'"),
        ("group_size=32", "toy", "group_size is not given as NAME=VALUE, but by the option group_size (on the command line --group-size)"),
    ],
)
def test_own_options_that_cannot_be_are_refused(said: str, method: str, answer: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(answer)}$"):
        recipe_for(QuantizeRequest(method=method, own_options=said))


def test_verify_and_inspect_know_the_file(packed_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answer(capsys, "verify", str(packed_path))["ok"]
    shown = answer(capsys, "inspect", str(packed_path), "--tensors")
    assert shown["decoded_layouts"] == [LAYOUT]
    (embedding,) = [tensor for tensor in shown["tensors"] if tensor["name"] == "emb.weight"]
    assert (embedding["layout"], embedding["method"]) == (LAYOUT, "nearest")
    assert run(["inspect", str(packed_path), "--tensors"]) == 0
    assert f"no native product for {LAYOUT}" in capsys.readouterr().out


@pytest.fixture(params=["native", "reference"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("RWKVQUANT_KERNELS", request.param)
    dispatch.native_module.cache_clear()
    yield request.param
    dispatch.native_module.cache_clear()


def test_generate_speaks(packed_path: Path, kernels: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(capsys, "generate", str(packed_path), "-p", "green", "-n", "4", "--seed", "1")
    assert len(said["tokens"]) == 4 and type(load(packed_path)._engine).__name__.lower() == f"{kernels}engine"


def test_eval_and_compare_measure_it(packed_path: Path, folder: Path, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = ["--text", str(folder / "text.txt"), "--context", "32", "--max-tokens", "256"]
    perplexity = answer(capsys, "eval", str(packed_path), *text)
    compared = answer(capsys, "compare", str(source), str(packed_path), *text)
    assert compared["kl_mean"] > 0 and compared["ppl_quantized"] == pytest.approx(perplexity["ppl"])


def test_export_writes_its_weights(packed_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = folder / "out.pth"
    answer(capsys, "export", str(packed_path), "-o", str(output), "--dtype", "fp32")
    weights, packed = open_checkpoint(output), open_packed(packed_path)
    np.testing.assert_array_equal(weights.read("emb.weight"), packed.decode("emb.weight"))


# How many files a real codec touches

OF_PAIRS = re.compile(
    r"PairConfig|PairCodebookTensor|PairDecoder|Codec kPairs|(from|import) [\w., ]*\bpairs\b|product_pairs\.cpp|gemv_pairs import"
)
OWN = re.compile(r"(^|/)(pairs|\w+_pairs)(/|\.\w+$)")


def test_a_codec_with_a_native_product_is_named_in_as_many_files_as_the_page_says() -> None:
    """`pairs` is such a codec: five files make it known, and three use it by choice."""
    sources = [ROOT / "CMakeLists.txt", *(path for end in ("py", "cpp", "h") for path in (ROOT / "src" / "rwkvquant").rglob(f"*.{end}"))]
    code = {path.relative_to(ROOT).as_posix(): re.sub(r"//.*|^ *#.*", "", path.read_text(), flags=re.MULTILINE) for path in sources}
    naming = {name.removeprefix("src/rwkvquant/") for name, text in code.items() if OF_PAIRS.search(text) and not OWN.search(name)}
    known_by = {"codecs/__init__.py", "quantizers/__init__.py", "models/decoders/__init__.py", "native/codecs.cpp", "CMakeLists.txt"}
    assert naming == known_by | {"recipes/codebook.py", "recipes/candidates.py", "bench/layouts.py"}


# Without them


def test_a_reader_that_has_not_the_codec_refuses_the_file_in_a_sentence(packed_path: Path) -> None:
    toy_codec.remove()
    try:
        with pytest.raises(FormatError, match=rf"'{LAYOUT}' is not a layout this version reads \(.*uniform1 to uniform8 .t16x64"):
            open_packed(packed_path)
    finally:
        toy_codec.add()
    ran = subprocess.run([sys.executable, "-m", "rwkvquant", "verify", str(packed_path)], capture_output=True, text=True)
    assert ran.returncode == 2 and len(ran.stderr.splitlines()) == 1 and f"'{LAYOUT}' is not a layout this version reads" in ran.stderr


def test_what_was_added_can_be_taken_back() -> None:
    toy_recipe.remove()
    toy_codec.remove()
    try:
        assert "toy" not in METHODS and LAYOUT not in layout_ids() and methods_for(TernaryConfig) == ()
        assert toy_codec.CODEC not in codecs() and all(each.params is not TernaryConfig for each in quantizers())
        with pytest.raises(ConfigError, match="no codec has registered TernaryConfig; there are codebook, columnwise, dense, "):
            TernaryConfig().stored_bytes((4, 4))
        with pytest.raises(ConfigError, match="the method nearest does not quantise to TernaryConfig; methods that do: none"):
            quantizer_for("nearest", TernaryConfig())
        with pytest.raises(ConfigError, match=r"method must be one of rwkvquant, .*; got toy"):
            recipe_for(QuantizeRequest(method="toy"))
        with pytest.raises(ConfigError, match=r"codec must be one of .*; got ternary"):
            config_from_json({"codec": "ternary"})
        assert recipe_for(QuantizeRequest(method="rtn", code_bits=4)).candidates[0].codec == GridConfig(4)
    finally:
        toy_codec.add()
        toy_recipe.add()
