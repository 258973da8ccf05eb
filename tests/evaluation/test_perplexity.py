import math

import numpy as np
import pytest
import torch

from rwkvquant.errors import ConfigError, RwkvQuantError, TokenizerError
from rwkvquant.evaluation import scoring
from rwkvquant.evaluation.perplexity import perplexity
from rwkvquant.evaluation.windows import Windows, document_windows
from tests.evaluation.toys import Bigram, Bytes, Recurrent, random_bigram, some_windows, uniform


def test_the_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary() -> None:
    windows = document_windows(["a text", "äh"], Bytes(), context=4)
    result = perplexity(uniform(256), windows).to_json()
    assert result["ppl"] == pytest.approx(256, rel=1e-12)
    assert result["nll"] == pytest.approx(math.log(256), rel=1e-12)
    assert result["bits_per_byte"] == pytest.approx(8, rel=1e-12)  # one token is one byte
    assert (result["tokens"], result["windows"]) == (9, 3)


def test_bits_per_byte_counts_bytes_and_not_tokens() -> None:
    class Pairs(Bytes):
        def encode(self, text: str) -> list[int]:
            return [1] * (len(text) // 2)

    windows = document_windows(["abcdefgh"], Pairs())
    assert perplexity(uniform(256), windows).bits_per_byte == pytest.approx(4, rel=1e-12)


def test_a_bigram_model_gives_its_closed_form() -> None:
    model, windows = random_bigram(3), document_windows(["hello there", "you"], Bytes(), context=5)
    logits = model.table.double().numpy()
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    # Windows of five, each begins with token 0: "hello", " ther", "e", "you".
    expected = [
        -log_p[before, after] for part in (b"hello", b" ther", b"e", b"you") for before, after in zip(b"\0" + part, part, strict=False)
    ]
    result = perplexity(model, windows)
    np.testing.assert_allclose(result.token_nll, expected, rtol=1e-12)
    np.testing.assert_allclose(result.window_nll, np.add.reduceat(expected, [0, 5, 10, 11]), rtol=1e-12)
    assert result.ppl == pytest.approx(math.exp(sum(expected) / 14), rel=1e-12)


@pytest.mark.parametrize("batch", [2, 3, 100])
def test_batches_and_padding_change_nothing(batch: int) -> None:
    windows, model = some_windows(), Recurrent()
    np.testing.assert_array_equal(perplexity(model, windows, batch=batch).token_nll, perplexity(model, windows, batch=1).token_nll)


def test_predictions_on_padding_are_never_counted() -> None:
    class Poisoned(Recurrent):
        def features(self, tokens: torch.Tensor) -> torch.Tensor:
            features = super().features(tokens)
            features[:, 1:][tokens[:, 1:] == 0] = math.nan  # the text has no token 0, so a later one is padding
            return features

    windows = some_windows()
    np.testing.assert_array_equal(perplexity(Poisoned(), windows).token_nll, perplexity(Recurrent(), windows).token_nll)


def test_a_batch_stays_within_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    windows, model = some_windows(lengths=(160, 3, 3, 3, 3)), random_bigram(0)
    whole = perplexity(model, windows, batch=100).token_nll
    limit = 3 * 16 * 256 * 4
    monkeypatch.setattr(scoring, "LOGIT_BYTES", limit)
    monkeypatch.setattr(scoring, "CHUNK_BYTES", 5 * 256 * 8)
    model.calls.clear()
    np.testing.assert_array_equal(perplexity(model, windows, batch=100).token_nll, whole)
    assert max(rows * length * 256 * 4 for rows, length in model.calls) == limit
    assert sum(rows for rows, _ in model.calls) == len(windows) + 1  # each window once, and one token to find the size of the vocabulary


def test_a_long_window_stays_within_the_same_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logits of one window of 160 tokens, in runs of 7: the logits in memory do not grow with --context."""
    windows, model = some_windows(lengths=(160, 9), context=160), random_bigram(0)
    whole = perplexity(model, windows).token_nll
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 7 * 256 * 4)
    model.rows.clear()
    np.testing.assert_array_equal(perplexity(model, windows).token_nll, whole)
    assert max(model.rows) == 7 and sum(model.rows) == 169 + 1  # and one to find the size of the vocabulary


def test_the_head_is_computed_for_counted_positions_only() -> None:
    """LAMBADA counts only the last word of a passage. The head of all others would be most of the work, for nothing."""
    windows, model = Windows.from_rows([[0, *range(1, 40)]], [37], text_bytes=3), random_bigram(0)
    perplexity(model, windows)
    assert model.rows == [1, 3]


def test_small_probabilities_are_kept_in_float64() -> None:
    """Two tokens; one is more likely by thirty nats. In float32 its nll would be 0."""
    logits = torch.tensor([[0.0, 30.0], [0.0, 30.0]])
    nll = perplexity(Bigram(logits), document_windows(["\1"], Bytes())).nll
    assert nll == pytest.approx(math.log1p(math.exp(-30)), rel=1e-3)
    assert nll > 0


def test_progress_counts_all_windows() -> None:
    seen: list[tuple[int, int]] = []
    windows = some_windows()
    perplexity(uniform(), windows, batch=3, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(3, 9), (6, 9), (9, 9)]


def test_a_token_outside_the_vocabulary_is_named() -> None:
    with pytest.raises(TokenizerError, match="below 100, the vocabulary of the model; the text gives token 101"):
        perplexity(uniform(100), document_windows(["de"], Bytes()))


def test_a_model_that_predicts_nan_is_refused() -> None:
    with pytest.raises(RwkvQuantError, match="those of the model are not"):
        perplexity(Bigram(torch.full((256, 256), math.nan)), some_windows())


def test_a_perplexity_larger_than_a_float64_is_refused() -> None:
    logits = torch.zeros(256, 256)
    logits[:, 0] = 1e4
    with pytest.raises(RwkvQuantError, match="at most 700 nats per token; the model gave 1e"):
        perplexity(Bigram(logits), some_windows()).to_json()


def test_batch_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="batch must be at least 1 window; got 0"):
        perplexity(uniform(), some_windows(), batch=0)
