import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from rwkvquant.errors import CalibrationError, ConfigError
from rwkvquant.evaluation.windows import Windows, document_windows, text_windows
from tests.evaluation.toys import Bytes

TEXTS = st.lists(st.text(alphabet="abcdé", max_size=30), min_size=1, max_size=6)


@given(documents=TEXTS, context=st.integers(1, 12))
def test_every_token_is_predicted_exactly_once_and_in_order(documents: list[str], context: int) -> None:
    tokens = [t for document in documents for t in Bytes().encode(document)]
    assume(tokens)
    windows = document_windows(documents, Bytes(), context=context)
    assert windows.targets[windows.mask].tolist() == tokens
    assert windows.tokens == sum(windows.tokens_each) == len(tokens)
    assert windows.text_bytes == len("".join(documents).encode())


def test_windows_are_the_documented_ones() -> None:
    windows = document_windows(["abcde", "", "xy"], Bytes(), context=3)
    a, b, c, d, _ = map(ord, "abcde")
    assert windows.inputs.tolist() == [[0, a, b], [0, d, 0], [0, ord("x"), 0]]
    assert windows.targets.tolist() == [[a, b, c], [d, ord("e"), 0], [ord("x"), ord("y"), 0]]
    assert windows.mask.tolist() == [[True, True, True], [True, True, False], [True, True, False]]
    assert windows.lengths.tolist() == [3, 2, 2]


@pytest.mark.parametrize("limit", range(1, 13))
def test_max_tokens_keeps_the_beginning_of_the_text(limit: int) -> None:
    documents = ["abcdé", "xyz", "q"]  # é is two bytes, so two tokens: the limit may be between them
    whole = document_windows(documents, Bytes(), context=4)
    part = document_windows(documents, Bytes(), context=4, max_tokens=limit)
    assert part.targets[part.mask].tolist() == whole.targets[whole.mask].tolist()[:limit]
    assert part.tokens == part.text_bytes == min(limit, 10)


def test_a_whole_document_counts_its_own_bytes_if_the_tokenizer_normalises() -> None:
    class Lower(Bytes):
        def encode(self, text: str) -> list[int]:
            return super().encode(text.replace("  ", " "))

    assert document_windows(["a  b"], Lower()).text_bytes == 4


def test_rows_may_count_their_last_tokens_only() -> None:
    windows = Windows.from_rows([[0, 5, 6, 7], [0, 8]], [3, 1], text_bytes=1)
    assert windows.targets[windows.mask].tolist() == [7, 8]
    assert windows.starts.tolist() == [0, 1]


def test_sums_are_taken_over_each_window() -> None:
    windows = document_windows(["abcde", "xy"], Bytes(), context=3)
    assert windows.sums(np.array([1.0, 2, 4, 8, 16, 32, 64])).tolist() == [7, 24, 96]


def test_the_hash_depends_on_text_context_and_mask() -> None:
    hashes = {
        document_windows(["abcd"], Bytes()).sha256(),
        document_windows(["abce"], Bytes()).sha256(),
        document_windows(["abcd"], Bytes(), context=2).sha256(),
        document_windows(["abcd", "a"], Bytes(), max_tokens=3).sha256(),
        Windows.from_rows([[0, *b"abcd"]], [2], text_bytes=4).sha256(),
    }
    assert len(hashes) == 5
    assert document_windows(["abcd"], Bytes()).sha256() in hashes


@pytest.mark.parametrize("documents", [[], [""], ["", ""]])
def test_text_without_a_token_is_refused(documents: list[str]) -> None:
    with pytest.raises(CalibrationError, match=r"at least one token of text; book\.txt has none"):
        document_windows(documents, Bytes(), source="book.txt")


def test_sizes_below_one_are_refused() -> None:
    with pytest.raises(ConfigError, match="context must be at least 1 token; got 0"):
        document_windows(["a"], Bytes(), context=0)
    with pytest.raises(ConfigError, match="max_tokens must be at least 1; got 0"):
        document_windows(["a"], Bytes(), max_tokens=0)


def test_a_text_file_gives_the_windows_of_its_documents(tmp_path) -> None:
    (tmp_path / "book.txt").write_text("abcde\n\n<|doc|>\n\nxy")
    windows = text_windows(tmp_path / "book.txt", Bytes(), context=3)
    assert windows.sha256() == document_windows(["abcde", "xy"], Bytes(), context=3).sha256()
