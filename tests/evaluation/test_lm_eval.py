"""The adapter for lm-evaluation-harness gives the numbers of a plain computation. Runs in `make test-lm-eval`, which installs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.load import load_model
from rwkvquant.runtime.session import load

pytest.importorskip("lm_eval", reason="needs the extra eval: make test-lm-eval")

from lm_eval.api.instance import Instance
from lm_eval.api.registry import get_model

from rwkvquant.evaluation.lm_eval import Contexts, RwkvQuantLM

DATA = Path(__file__).parents[1] / "data"
TINY = {"file": str(DATA / "rwkv7-tiny.pth"), "tokenizer": str(DATA / "tokenizer.json")}
PACKED = {"file": str(DATA / "rwkv7-tiny-rtn4.safetensors")}
PAIRS = [
    ("The old man looked at the sea", " and smiled"),
    ("The old man looked at the sea", " without a word"),
    ("The old man looked at the sky ", "and smiled"),
    ("The old man looked", " up"),
    ("", "It was late."),
    ("It was late. The old man looked at the sea", " a"),
    ("The old man looked at the sea", " and smiled"),
]


def instances(kind: str, arguments: list[Any]) -> list[Any]:
    return [Instance(request_type=kind, doc={}, arguments=each, idx=0) for each in arguments]


@pytest.fixture(
    params=[(TINY, "torch"), (TINY, "native"), (PACKED, "torch"), (PACKED, "native")], ids=lambda p: f"{p[0]['file'][-8:]}-{p[1]}"
)
def model(request: pytest.FixtureRequest) -> Iterator[RwkvQuantLM]:
    files, engine = request.param
    yield RwkvQuantLM(**files, engine=engine)


def whole(model: RwkvQuantLM, tokens: list[int]) -> np.ndarray[Any, Any]:
    """ln p (T, V) after each token, from one forward over all of them."""
    logits = model.reader.read(tokens, None, True)[0].astype(np.float64)
    return logits - np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1, keepdims=True)) - logits.max(-1, keepdims=True)


def plain(model: RwkvQuantLM, context: str, continuation: str) -> tuple[float, bool]:
    spaces = len(context) - len(context.rstrip())
    if spaces:
        context, continuation = context[:-spaces], context[-spaces:] + continuation
    encode = model.tok_encode
    before = encode(context)
    after = encode(context + continuation)[len(before) :]
    log_p = whole(model, [0, *before, *after])[len(before) : -1]
    return float(log_p[np.arange(len(after)), after].sum()), bool((log_p.argmax(-1) == after).all())


def test_it_is_known_under_its_name() -> None:
    assert get_model("rwkvquant") is RwkvQuantLM


def test_loglikelihoods_are_those_of_one_forward(model: RwkvQuantLM) -> None:
    found = model.loglikelihood(instances("loglikelihood", PAIRS))
    for pair, (logp, greedy) in zip(PAIRS, found, strict=True):
        expected, likeliest = plain(model, *pair)
        assert logp == pytest.approx(expected, abs=2e-4) and greedy == likeliest
    assert found[0] == found[6]


def test_the_native_engine_gives_the_same_bits_from_a_kept_state() -> None:
    model = RwkvQuantLM(**PACKED)
    found = model.loglikelihood(instances("loglikelihood", PAIRS))
    for pair, (logp, _) in zip(PAIRS, found, strict=True):
        assert logp == pytest.approx(plain(model, *pair)[0], abs=1e-9)


def test_torch_and_native_agree_on_a_checkpoint_and_with_the_package() -> None:
    """Against the forward of `compare`, and the engine of `load`."""
    text = "The old man looked at the sea and smiled"
    tokens = [0, *RwkvQuantLM(**TINY).tok_encode(text)]
    torch_model = load_model(TINY["file"], TINY["tokenizer"])[0]
    logits = torch_model.forward(torch.tensor([tokens]))[0][0].numpy()
    assert np.array_equal(logits, RwkvQuantLM(**TINY, engine="torch").reader.read(tokens, None, True)[0])
    native = load(TINY["file"], TINY["tokenizer"]).forward(tokens, logits="all")[0]
    assert np.array_equal(native, RwkvQuantLM(**TINY).reader.read(tokens, None, True)[0])


class Counting:
    """A reader whose state is the list of tokens that it has read."""

    def __init__(self) -> None:
        self.tokens = 0

    def read(self, tokens: Any, state: Any, every: bool) -> Any:
        self.tokens += len(tokens)
        after = (*(state or ()), *tokens)
        return np.full((1, 2), hash(after) % 1000, np.float32), after


def test_what_contexts_have_in_common_is_read_once() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        contexts = {tuple(random.integers(1, 3, random.integers(1, 12)).tolist()) for _ in range(20)}
        reader = Counting()
        found = list(Contexts(reader, contexts))  # type: ignore[arg-type]
        assert [context for context, _, _ in found] == sorted(contexts)
        assert all(state == context and logits[0] == hash(context) % 1000 for context, logits, state in found)
        beginnings = {context[:end] for context in contexts for end in range(1, len(context) + 1)}
        assert reader.tokens == len(beginnings)


def test_rolling_reads_a_text_of_any_length_from_token_0(model: RwkvQuantLM) -> None:
    text = "The old man looked at the sea and smiled. " * 90
    (found,) = model.loglikelihood_rolling(instances("loglikelihood_rolling", [(text,)]))
    tokens = model.tok_encode(text)
    assert len(tokens) > 512
    log_p = whole(model, [0, *tokens])[:-1]
    assert found == pytest.approx(log_p[np.arange(len(tokens)), tokens].sum(), abs=2e-2)


def test_generation_is_greedy_and_ends_before_a_stop_string() -> None:
    model = RwkvQuantLM(**PACKED)
    whole_text = load(PACKED["file"]).generate("The old man", max_tokens=24, temperature=0.0).text
    stop = whole_text[10:13]
    asked = [("The old man", {"until": [], "max_gen_toks": 24}), ("The old man", {"until": [stop], "max_gen_toks": 24, "do_sample": False})]
    assert model.generate_until(instances("generate_until", asked)) == [whole_text, whole_text.split(stop)[0]]


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="engine must be one of native, torch; got int4"):
        RwkvQuantLM(**PACKED, engine="int4")


def test_the_harness_runs_a_task_with_it(tmp_path: Path) -> None:
    """By the command line of the docs, without the network: a task that is a file of four questions."""
    rows = [{"q": "The old man looked at the", "choices": [" sea", " qxz"], "answer": 0} for _ in range(4)]
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "toy.yaml").write_text(
        f"""
task: toy_questions
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{tmp_path}/rows.json"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""
    )
    command = [
        sys.executable,
        "-m",
        "rwkvquant.evaluation.lm_eval",
        "run",
        "--model",
        "rwkvquant",
        "--model_args",
        f"file={PACKED['file']}",
    ]
    command += ["--include_path", str(tmp_path), "--tasks", "toy_questions", "--output_path", str(tmp_path / "out")]
    environment = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(next((tmp_path / "out").rglob("results*.json")).read_text())
    assert result["results"]["toy_questions"]["acc,none"] == 1.0
