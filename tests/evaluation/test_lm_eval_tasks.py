"""Tasks over local files have the harness's prompts, and our adapter the scores of the harness's own model of a transformer.

Runs in `make test-lm-eval`, which installs the harness.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lm_eval", reason="needs the extra eval: make test-lm-eval")

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.lm_eval import RwkvQuantLM
from tests.llama import write_llama

ROOT = Path(__file__).parents[2]
TOKENIZER = str(ROOT / "tests" / "data" / "tokenizer.json")
END_OF_TEXT = "<|eod|>"
TASKS = ("lambada_openai", "headqa_en", "hellaswag", "openbookqa", "piqa", "sciq", "winogrande", "arc_challenge", "arc_easy")
ANSWER = "Please choose the correct answer to the question: {}\n\nAnswer1: a\nAnswer2: b or\nc\nAnswer3: d\nAnswer4: e\n\nAnswer format: x"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two questions in each file, in the form in which such files are spread."""
    folder = tmp_path_factory.mktemp("data")
    asked = [{"query": f"Question: Why {n}?", "choices": ["one", "two", "three"], "gold": n} for n in range(2)]
    files: dict[str, list[Any]] = {
        "arc_easy.jsonl": asked,
        "arc_challenge.jsonl": asked,
        "openbook_qa.jsonl": [{"query": f"The sky is {n}", "choices": ["red", "blue"], "gold": 1} for n in range(2)],
        "piqa.jsonl": [{"query": f"Question: dresser {n}\n", "choices": ["in", "out"], "gold": n} for n in range(2)],
        "winogrande.jsonl": [
            {"context_options": ["Ann saw Bea so Ann", "Ann saw Bea so Bea"], "continuation": "ran.", "gold": n} for n in range(2)
        ],
        "lambada_test.jsonl": [{"text": "The old man looked at the sea"}, {"text": 'He said: "Go  on."'}],
    }
    for name, rows in files.items():
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    question = {"qtext": "Which?", "ra": "2", "answers": [{"aid": n, "atext": f"cell {n}"} for n in range(1, 6)]}
    (folder / "headqa_en_test.json").write_text(json.dumps({"exams": {"a": {"data": [question]}, "b": {"data": [question]}}}))
    (folder / "hellaswag_val_2000.txt").write_text("".join(f"Roof: A man sits. he\n{n}\nis.\nwas.\nruns.\nfalls.\n" for n in range(2)))
    entries = [{"instruction": ANSWER.format(f"What is {n}?\nSay it"), "answer": f"answer{n + 1}"} for n in range(2)]
    (folder / "sciq.llmadapters.test.json").write_text(json.dumps(entries))
    return str(folder)


def evaluated(model: Any, data: str | None) -> dict[str, Any]:
    metadata = {"data_dir": data, "file": "an argument of the model"} if data else {}
    manager = TaskManager(include_path=str(ROOT / "lab" / "lm_eval_tasks"), metadata=metadata)
    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, tasks=["local_nine"], task_manager=manager, log_samples=True, bootstrap_iters=0
    )
    return found


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_llama(tmp_path_factory.mktemp("llama"), vocab_size=4096, max_position_embeddings=512, bos_token_id=0, eos_token_id=0))


@pytest.fixture(scope="module")
def theirs(llama: str, data: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The harness's own model, with token 0 before every context, as our adapter has it."""
    known, folder = Tokenizer.from_file(TOKENIZER), tmp_path_factory.mktemp("tokenizer")
    known.post_processor = TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
    PreTrainedTokenizerFast(tokenizer_object=known, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT).save_pretrained(folder)
    return evaluated(HFLM(pretrained=llama, tokenizer=str(folder), device="cpu", dtype="float32", batch_size=3, add_bos_token=True), data)


@pytest.mark.parametrize("engine", ["torch", "native"])
def test_a_transformer_has_the_scores_of_the_harness_own_model(engine: str, llama: str, data: str, theirs: dict[str, Any]) -> None:
    ours = evaluated(RwkvQuantLM(file=llama, tokenizer=TOKENIZER, engine=engine), data)
    assert ours["samples"].keys() == theirs["samples"].keys() == {f"local_{task}" for task in TASKS}
    for task, samples in ours["samples"].items():
        assert ours["results"][task]["acc,none"] == theirs["results"][task]["acc,none"], task
        for sample, other in zip(samples, theirs["samples"][task], strict=True):
            for (score, greedy), (wanted, greedily) in zip(sample["filtered_resps"], other["filtered_resps"], strict=True):
                assert abs(float(score) - float(wanted)) < 1e-3 and str(greedy) == str(greedily)


def test_prompts_are_those_of_the_harness(theirs: dict[str, Any]) -> None:
    """Contexts and continuations of the first question of each file, as the harness's tasks of the same names write them."""
    wanted = {
        "arc_easy": [("Question: Why 0?\nAnswer:", f" {choice}") for choice in ("one", "two", "three")],
        "headqa_en": [("Question: Which?\nAnswer:", f" cell {n}") for n in range(1, 6)],
        "hellaswag": [("Roof: A man sits. he", f" {ending}") for ending in ("is.", "was.", "runs.", "falls.")],
        "openbookqa": [("The sky is 0", " red"), ("The sky is 0", " blue")],
        "piqa": [("Question: dresser 0\nAnswer:", " in"), ("Question: dresser 0\nAnswer:", " out")],
        "sciq": [("Question: What is 0?\nSay it\nAnswer:", f" {choice}") for choice in ("a", "b or\nc", "d", "e")],
        "winogrande": [("Ann saw Bea so Ann", " ran."), ("Ann saw Bea so Bea", " ran.")],
        "lambada_openai": [("The old man looked at the", " sea")],
    }
    wanted["arc_challenge"] = wanted["arc_easy"]
    right = {"headqa_en": 1, "openbookqa": 1}
    for task, pairs in wanted.items():
        first = theirs["samples"][f"local_{task}"][0]
        assert [tuple(pair) for pair in first["arguments"]] == pairs, task
        if task != "lambada_openai":
            likeliest = max(range(len(pairs)), key=lambda at: float(first["filtered_resps"][at][0]))
            assert first["acc"] == float(likeliest == right.get(task, 0)), task


def test_files_that_are_missing_are_named(llama: str, tmp_path: Path) -> None:
    model = RwkvQuantLM(file=llama, tokenizer=TOKENIZER)
    with pytest.raises(ConfigError, match="say where they are: --metadata data_dir=FOLDER"):
        evaluated(model, None)
    with pytest.raises(ConfigError, match=r"lambada_test\.jsonl: there is no such file"):
        evaluated(model, str(tmp_path))
