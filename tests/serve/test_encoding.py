"""Tokens of texts that begin alike are those that each text gets alone."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.runtime.tokenizer_bytes import BytesTokenizer
from rwkvquant.runtime.tokenizer_world import WorldTokenizer, world
from rwkvquant.serve import encoding
from rwkvquant.serve.encoding import Encoder, same_bytes

PARTS = ["the river ", "Wind und Wetter ", "\n\n", "鳥が飛ぶ", "🙂", "  " * 40, "==========", "a", "é"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return world()


def text_of(rng: random.Random, parts: int) -> str:
    return "".join(rng.choice(PARTS) for _ in range(parts))


def test_a_text_that_begins_as_another_gets_the_tokens_that_it_gets_alone(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    encoder, text = Encoder(tokenizer), text_of(rng, 400)
    for _ in range(300):
        cut = rng.randrange(len(text)) if rng.random() < 0.7 else len(text)
        text = text[:cut] + text_of(rng, rng.randrange(1, 200))
        assert encoder.encode(text) == tokenizer.encode(text)


def test_only_what_is_new_is_read(tokenizer: Tokenizer) -> None:
    class Counting(WorldTokenizer):
        def encode_bytes(self, source: bytes) -> list[int]:
            read["bytes"] += len(source)
            return super().encode_bytes(source)

    read: Counter[str] = Counter()
    counting = Counting(tokenizer._tokens)
    encoder, text = Encoder(counting), "the river and the old bridge " * 500
    encoder.encode(text + "first")
    read.clear()
    encoder.encode(text + "second")
    assert read["bytes"] < 2 * counting.longest


def test_some_texts_are_kept_and_callers_own_what_they_get(tokenizer: Tokenizer) -> None:
    encoder = Encoder(tokenizer)
    for index in range(3 * encoding.KEPT):
        text = f"{index} " + "stone and water " * 100
        encoder.encode(text).clear()
        assert encoder.encode(text) == tokenizer.encode(text)
    assert len(encoder._kept) == encoding.KEPT


def test_long_texts_are_not_kept_beyond_the_memory(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "MOST", 5000)
    encoder = Encoder(tokenizer)
    for text in ("a" * 3000, "b" * 3000, "c" * 9000):
        assert encoder.encode(text) == tokenizer.encode(text)
        assert sum(map(len, encoder._kept)) <= 5000


def test_other_tokenizers_and_wrong_texts_are_passed_on() -> None:
    text = "the river " * 200
    assert Encoder(BytesTokenizer()).encode(text) == BytesTokenizer().encode(text)
    with pytest.raises(TokenizerError):
        Encoder(world()).encode(text + "\ud800")


def test_same_bytes() -> None:
    assert [same_bytes(a, b) for a, b in ((b"", b"a"), (b"abc", b"abd"), (b"abc", b"abc"), (b"x", b"y"), (b"ab", b"abc"))] == [
        0,
        2,
        3,
        0,
        2,
    ]
