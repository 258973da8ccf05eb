"""What ships is measured as it ships, and rounded inputs as the engine's own are the engine's numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import rwkvquant
from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation import divergence
from rwkvquant.evaluation.forwards import Forward, forward_named
from rwkvquant.evaluation.load import load_forward, load_model
from rwkvquant.evaluation.windows import text_windows
from rwkvquant.kernels import dispatch

DATA = Path(__file__).parents[1] / "data"
ORIGINAL, PACKED, TOKENIZER = (str(DATA / name) for name in ("rwkv7-tiny.pth", "rwkv7-tiny-rtn4.safetensors", "tokenizer.json"))
needs_native = pytest.mark.skipif(dispatch.native_module() is None, reason="needs the native module")


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "some.txt"
    path.write_text("The old man looked at the sea and smiled, and the sea did not mind. It was late, and the boats were out. " * 5)
    return str(path)


def test_names_of_forwards() -> None:
    assert forward_named("int4") == Forward("int4", 4, 64) and forward_named("int8/32") == Forward("int8/32", 8, 32)
    assert (forward_named("torch").bits, forward_named("native").bits) == (None, None)
    for wrong in ("int9", "int1", "int4/0", "int4/", "int44", "engine", "", 4, None, "int4/9999999"):
        with pytest.raises(ConfigError, match="a forward is torch, native, or int2 to int8"):
            forward_named(wrong)


@needs_native
def test_native_is_the_engine_to_the_bit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With int8 activations, whatever the environment says; padding of a shorter window changes nothing."""
    engine = rwkvquant.load(PACKED, activations="int8")
    monkeypatch.setenv("RWKVQUANT_ACTIVATIONS", "float32")
    model, tokenizer = load_forward(PACKED, forward="native")
    cut = text_windows(text, tokenizer, context=50)
    assert len(set(cut.lengths)) > 1
    base = load_model(ORIGINAL, TOKENIZER)[0]
    compared = divergence.compare(base, model, cut)
    at = 0
    for w, length in enumerate(cut.lengths):
        logits = engine.forward(cut.inputs[w, :length].tolist(), logits="all")[0].astype(np.float64)
        log_q = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        wanted = -log_q[np.arange(length), cut.targets[w, :length]]
        np.testing.assert_allclose(compared.nll_quantized[at : at + length], wanted, rtol=1e-9, atol=1e-12)
        at += length


@needs_native
def test_int8_in_groups_of_64_is_what_the_engine_does(text: str) -> None:
    """They differ by much less than both from the torch forward: sums in another order only."""
    models = {name: load_forward(PACKED, forward=name)[0] for name in ("torch", "native", "int8", "int4")}
    cut = text_windows(text, load_model(PACKED)[1])
    nll = {name: found.nll_quantized for name, found in divergence.compare_many(models["torch"], models, cut).items()}
    apart = np.abs(nll["int8"] - nll["native"]).mean()
    assert 0 < apart < 0.25 * np.abs(nll["int8"] - nll["torch"]).mean()
    assert np.abs(nll["int4"] - nll["torch"]).mean() > 8 * np.abs(nll["int8"] - nll["torch"]).mean()


@needs_native
def test_compare_and_eval_say_which_forward(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    kl = {name: rwkvquant.compare(ORIGINAL, PACKED, text, forward=name) for name in ("torch", "native", "int4/32")}
    assert [result.forward for result in kl.values()] == list(kl)
    assert kl["torch"].kl_mean != kl["native"].kl_mean and kl["int4/32"].kl_mean > kl["torch"].kl_mean
    assert rwkvquant.evaluate(PACKED, text, forward="native").ppl == kl["native"].ppl_quantized
    assert run(["compare", ORIGINAL, PACKED, "--text", text, "--forward", "native"]) == 0
    assert "forward of the quantised model" in capsys.readouterr().out
    assert run(["eval", PACKED, "--text", text, "--forward", "int4"]) == 0
    assert "int4" in capsys.readouterr().out
    assert run(["eval", PACKED, "--text", text, "--forward", "int12"]) == 2
    assert "a forward is torch, native, or int2 to int8" in capsys.readouterr().err


def test_native_without_the_native_module_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "native_module", lambda: None)
    with pytest.raises(ConfigError, match="the forward native is the native module, which is missing here"):
        load_forward(PACKED, forward="native")
