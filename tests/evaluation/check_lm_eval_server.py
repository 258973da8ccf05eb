"""lm-evaluation-harness scores over HTTP, with its own `local-completions`, as the model does in this process.

Runs in `make test-lm-eval`, which installs both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI
from transformers import PreTrainedTokenizerFast

from rwkvquant.evaluation.lm_eval import RwkvQuantLM
from tests.serve.servers import MODEL, STORY, Server, serving

TEXTS = [
    ("The old man looked at the sea", " and smiled"),
    ("The old man looked at the sea", " without a word, é 你好"),
    (STORY, " that the river was deep and cold, and that nobody had ever come back from it"),
    ("It was late. The old man looked at the sea", " a"),
]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def ours() -> RwkvQuantLM:
    return RwkvQuantLM(file=str(MODEL), engine="native")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The model's tokenizer as lm_eval reads one."""
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_file=str(MODEL.parent / "tokenizer.json")).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 3}, {"batch_size": 1, "num_concurrent": 4}], ids=str)
def test_scores_are_those_of_the_model_in_process(server: Server, ours: RwkvQuantLM, tokenizer: str, options: dict[str, Any]) -> None:
    over_http = LocalCompletionsAPI(
        base_url=f"{server.url}/v1/completions",
        model="rwkv",
        tokenizer_backend="huggingface",
        tokenizer=tokenizer,
        max_retries=1,
        **options,
    )
    asked = [Instance("loglikelihood", {}, pair, 0) for pair in TEXTS]
    for (score, is_greedy), (wanted, greedily) in zip(over_http.loglikelihood(asked), ours.loglikelihood(asked), strict=True):
        assert abs(score - wanted) < 1e-3 and is_greedy == greedily
