"""What happens to the model's file while the server runs, and states that are kept in few bits."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import Model
from rwkvquant.runtime.states.files import PackedState
from rwkvquant.serve.prefixes import Prefixes
from tests.serve.servers import MODEL, STORY, serving


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copy(MODEL, tmp_path / "model.safetensors"))


def test_a_file_that_becomes_shorter_is_an_error_and_not_a_crash(copied: Path) -> None:
    """Reading what is no longer there would end the process."""
    with serving("--pages", "map", model=copied) as server:
        known = 3 * STORY
        server.complete(known, max_tokens=5)
        os.truncate(copied, copied.stat().st_size // 2)
        status, answer, _ = server.ask("/v1/completions", {"prompt": "The sea", "max_tokens": 5})
        assert status == 500 and "shorter" in answer["error"]["message"] and answer["error"]["type"] == "server_error"
        status, events, _ = server.ask("/v1/completions", {"prompt": known, "max_tokens": 5, "stream": True})  # one token is known
        assert status == 200 and "shorter" in events
        assert server.ask("/health")[0] == 200 and server.process.poll() is None
    assert "Traceback" not in server.said() and server.process.returncode == 0


@pytest.mark.parametrize("pages", ["map", "auto"])
def test_a_file_that_is_replaced_by_renaming_changes_nothing(copied: Path, pages: str) -> None:
    with serving("--pages", pages, model=copied) as server:
        before = server.text(STORY, max_tokens=5)
        other = copied.with_name("other")
        other.write_bytes(b"another model")
        os.replace(other, copied)
        assert server.text(STORY, max_tokens=5) == before
        assert server.text(STORY + " that", max_tokens=5) != ""
    assert server.process.returncode == 0


def test_states_in_eight_bits_take_a_quarter_and_answers_stay_near(model: Model) -> None:
    _, state = model.forward([0, *model.tokenizer.encode(STORY)])
    full, small = Prefixes(1 << 30), Prefixes(1 << 30, 8)
    for cache in (full, small):
        cache.put("", (1, 2, 3), state)
    entry = small.find("", (1, 2, 3, 4)).entry
    assert entry is not None and isinstance(entry.kept, PackedState)
    states = [cache.nbytes - 1000 for cache in (full, small)]
    assert states[1] < 0.3 * states[0]

    text = STORY + " that the river was deep and cold, and that"
    fields = {"max_tokens": 1, "logprobs": 5}
    with serving("--cache-bits", "8") as server:
        fresh = server.complete(text + " nobody", **fields)
        server.complete(text, max_tokens=1)
        server.complete(text + " everybody", max_tokens=1)
        cached = server.complete(text + " nobody had", **fields)
        assert cached["usage"]["prompt_tokens_details"]["cached_tokens"] > len(model.tokenizer.encode(STORY))
        assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    exact, _ = model.forward([0, *model.tokenizer.encode(text + " nobody had")])
    wanted = exact - np.log(np.exp(exact.astype(np.float64)).sum())
    scores = cached["choices"][0]["logprobs"]
    (token,) = scores["tokens"]
    assert abs(scores["token_logprobs"][0] - wanted[model.tokenizer.encode(token)[0]]) < 0.1
