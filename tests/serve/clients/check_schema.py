"""Requests that schemathesis makes from the served schema: no error of the server's own, and every answer has the shape it says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

from rwkvquant.serve.schema import document
from tests.serve.servers import STORY, Server, serving

load_all_checks()
KINDS = ["not_a_server_error", "content_type_conformance", "response_schema_conformance", "status_code_conformance"]


@pytest.fixture(scope="module")
def small() -> Iterator[Server]:
    """Answers are short, so that many requests are made."""
    with serving("--max-tokens", "4", "--timeout", "20") as running:
        yield running
        assert running.process.poll() is None and "Traceback" not in running.said(), running.said()


@pytest.fixture(scope="module")
def api(small: Server) -> Any:
    return schemathesis.openapi.from_url(f"{small.url}/openapi.json")


def operations() -> list[tuple[str, str, GenerationMode]]:
    methods = [(path, method) for path, each in document("")["paths"].items() for method in each]
    right = [(*each, GenerationMode.POSITIVE) for each in methods]
    return right + [(*each, GenerationMode.NEGATIVE) for each in methods if each[1] == "post"]


@pytest.mark.parametrize(("path", "method", "mode"), operations())
def test_every_answer_has_the_shape_that_the_schema_says(api: Any, path: str, method: str, mode: GenerationMode) -> None:
    """To requests that fit the schema, and to those that do not."""

    @settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        case.call_and_validate(checks=CHECKS.get_by_names(KINDS), timeout=60)

    ask()


def test_the_next_answer_is_right(small: Server, model: Any) -> None:
    assert small.text(STORY, max_tokens=4) == model.generate(STORY, 4, temperature=0).text
