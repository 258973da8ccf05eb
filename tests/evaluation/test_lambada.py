import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rwkvquant.errors import CalibrationError, ConfigError, TokenizerError
from rwkvquant.evaluation.lambada import lambada, load_texts, score_texts
from tests.evaluation.toys import Bigram, Bytes, Recurrent, uniform

TEXTS = ["the cat sat on the mat", "a b", "one two  three", " word", "Ein Wort zum Schlusse", "x " * 40 + "end"]


def by_the_script(model: Recurrent, texts: list[str]) -> tuple[list[float], list[bool]]:
    """BlinkDL's loop: one document at a time, one token at a time."""
    logps, corrects = [], []
    for text in texts:
        prefix, word = text.rsplit(" ", 1)
        src, dst = [0, *Bytes().encode(prefix)], Bytes().encode(" " + word)
        logits = model.logits(model.features(torch.tensor([src + dst]))[0]).double()
        logp, correct = 0.0, True
        for i, token in enumerate(dst):
            probs = torch.softmax(logits[len(src) - 1 + i], dim=-1)
            logp += math.log(probs[token])
            correct &= int(torch.argmax(probs)) == token
        logps.append(logp)
        corrects.append(correct)
    return logps, corrects


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_batched_equals_the_script_one_document_at_a_time(batch: int) -> None:
    model = Recurrent(vocab=128)
    texts = [*TEXTS, easy(model, "the"), easy(model, "one two")]  # else the model would predict no last word
    logps, corrects = by_the_script(model, texts)
    result = score_texts(model, Bytes(), texts, batch=batch)
    np.testing.assert_allclose(result.logp, logps, rtol=1e-12)
    assert result.correct.tolist() == corrects
    assert result.acc == np.mean(corrects) == 2 / 8
    assert result.ppl == pytest.approx(math.exp(-np.mean(logps)), rel=1e-12)
    assert result.to_json().keys() == {"ppl", "acc", "docs"}


def easy(model: Recurrent, prefix: str) -> str:
    """Change the model so that it predicts " yz" after the prefix: raise the logits of these tokens at their positions."""
    vocab, features, logits = model.head.shape[1], model.features, model.logits

    def raised(tokens: torch.Tensor) -> torch.Tensor:
        more = torch.zeros(*tokens.shape, vocab)
        for row in range(len(tokens)):
            begun = bytes([0, *prefix.encode()])
            for i, token in enumerate(b" yz"):
                at = len(begun) + i - 1
                if bytes(tokens[row, : at + 1].tolist()) == begun + b" yz"[:i]:
                    more[row, at, token] = 100
        return torch.cat([features(tokens), more], -1)

    model.features = raised  # type: ignore[method-assign]
    model.logits = lambda rows: logits(rows[:, :-vocab]) + rows[:, -vocab:]  # type: ignore[method-assign]
    return prefix + " yz"


def test_a_uniform_model_counts_every_token_of_the_word() -> None:
    """Words of 2 and 4 tokens with their space: the mean of logp is -3 ln 256, for passages of any length."""
    result = score_texts(uniform(), Bytes(), ["long passage a", "b xyz"])
    assert result.ppl == pytest.approx(256**3, rel=1e-12)


def test_a_word_is_correct_only_if_each_of_its_tokens_is_the_likeliest() -> None:
    likeliest = torch.zeros(256, 256)
    for before, after in ["e ", " a", "ab", "bc"]:
        likeliest[ord(before), ord(after)] = 5
    result = score_texts(Bigram(likeliest), Bytes(), ["the abc", "the ab", "the abd", "the bbc", "then abc"])
    assert result.correct.tolist() == [True, True, False, False, False]
    assert result.acc == 0.4


def test_prefix_and_word_are_split_at_the_last_space_and_encoded_separately() -> None:
    class Spy(Bytes):
        asked: list[str] = []  # noqa: RUF012

        def encode(self, text: str) -> list[int]:
            self.asked.append(text)
            return super().encode(text)

    score_texts(uniform(), Spy(), ["one two  three"])
    assert Spy.asked == ["one two ", " three"]


def test_files_are_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "lambada.jsonl"
    path.write_text("".join(json.dumps({"text": text, "id": 1}) + "\n" for text in TEXTS) + "\n")
    seen: list[tuple[int, int]] = []
    assert load_texts(path) == TEXTS
    assert lambada(uniform(), Bytes(), path, max_docs=5, progress=lambda *done: seen.append(done)).to_json()["docs"] == 5
    assert seen[-1] == (5, 5)


@pytest.mark.parametrize(
    "line",
    ["{", '"a text"', '{"txt": "a b"}', '{"text": 3}', '["a b"]', '{"text": "\\ud800 a"}', "[" * 100_000],
    ids=["cut", "string", "no text", "number", "list", "surrogate", "deep"],
)
def test_a_malformed_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "a b"}\n\n' + line + "\n")
    with pytest.raises(CalibrationError, match=r"bad\.jsonl, line 3 is not"):
        load_texts(path)


def test_bytes_that_are_not_utf8_are_named_by_their_line(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"text": "a b"}\n{"text": "a \xff"}\n')
    with pytest.raises(CalibrationError, match="line 2 is not"):
        load_texts(tmp_path / "bad.jsonl")


def test_a_text_of_one_word_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "word"}')
    with pytest.raises(CalibrationError, match=r"needs a space before it; .*line 1 has none"):
        load_texts(tmp_path / "bad.jsonl")


def test_missing_and_empty_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.jsonl is not \(No such file"):
        load_texts(tmp_path / "none.jsonl")
    with pytest.raises(CalibrationError, match="is not"):
        load_texts(tmp_path)
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(CalibrationError, match="at least one document"):
        load_texts(tmp_path / "empty.jsonl")
    with pytest.raises(ConfigError, match="max_docs must be at least 1; got 0"):
        lambada(uniform(), Bytes(), tmp_path / "empty.jsonl", max_docs=0)


def test_a_token_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(TokenizerError, match="the text gives token 121"):
        score_texts(uniform(100), Bytes(), ["a xy"])
