"""Text becomes rows of tokens as documented, and a file that is not text is refused in one sentence."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.errors import CalibrationError


class Letters:
    """a = 1, b = 2, ... so that rows can be read."""

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - ord("a") + 1 for letter in text]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_text_is_split_at_the_separator(tmp_path: Path) -> None:
    assert load_documents(write(tmp_path / "a.txt", "one\n\n<|doc|>\n\ntwo\n\nstill two\n\n<|doc|>\n\n \n")) == ["one", "two\n\nstill two"]
    assert load_documents(write(tmp_path / "b.txt", "\ufeffone\r\ntwo")) == ["one\ntwo"]


def test_jsonl_gives_one_document_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '{"text": "one\u2028two \\n three", "id": 1}\n\n{"text": ""}\n{"text": "\\u00e9"}')
    assert load_documents(str(path)) == ["one\u2028two \n three", "é"]


@pytest.mark.parametrize("name", ["a.JSONL", "a.json", "a.jsonl.txt", "a"])
def test_json_lines_are_recognised_by_their_content(tmp_path: Path, name: str) -> None:
    assert load_documents(write(tmp_path / name, '\n{"text": "one"}\n{"text": "\\u00e9"}\n')) == ["one", "é"]


@pytest.mark.parametrize("text", ["[1] A note.", '{"text": "quoted"} is JSON', '{ "a": 1 }\nand prose', "[", "[]", "{", '["a", "b"]'])
def test_a_text_that_begins_like_json_is_a_text(tmp_path: Path, text: str) -> None:
    assert load_documents(write(tmp_path / "a.txt", text)) == [text]


def test_single_zero_bytes_are_characters_of_the_text(tmp_path: Path) -> None:
    assert load_documents(write(tmp_path / "a.txt", b"a page\0 of the web\0\0")) == ["a page\0 of the web\0\0"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty.txt", "", "holds no text"),
        ("blank.txt", " \n\n<|doc|>\n\n\t\n", "holds no text"),
        ("empty.jsonl", '{"text": ""}\n', "holds no text"),
        ("latin.txt", b"caf\xe9", r"latin\.txt is not UTF-8 text \(byte 3\)"),
        ("utf16.txt", "text in UTF-16".encode("utf-16-le"), "14 of its 28 bytes are zero"),
        ("utf32.txt", "text in UTF-32".encode("utf-32-be"), "42 of its 56 bytes are zero"),
        ("archive.tar", b"name" + bytes(96) + 3000 * b"text", "not a text in UTF-8"),
        ("pointer.txt", "version https://git-lfs.github.com/spec/v1\noid sha256:0d71\n", "git lfs pull"),
        ("list.json", '[{"text": "a"},\n {"text": "b"}]', "is one JSON document"),
        ("config.json", '{\n "width": 64\n}', "is one JSON document"),
        ("keys.json", '{"content": "a"}\n{"content": "b"}\n', 'line 1: no "text"'),
        ("cut.json", '{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("deep.jsonl", "[" * 100_000, "line 1: not JSON"),
        ("broken.jsonl", '{"text": "a"}\n{"text": ', "line 2: not JSON"),
        ("list.jsonl", "[1]", 'line 1: no "text"'),
        ("key.jsonl", '{"content": "a"}', 'line 1: no "text"'),
        ("number.jsonl", '{"text": 3}', 'line 1: no "text"'),
    ],
)
def test_a_file_that_is_not_text_is_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        load_documents(write(tmp_path / name, content))


def test_a_directory_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="is a directory"):
        load_documents(tmp_path)
    with pytest.raises(CalibrationError, match=r"cannot read the text .*none\.txt: No such file"):
        load_documents(tmp_path / "none.txt")


def test_token_0_is_before_each_document_and_rows_have_no_gaps() -> None:
    rows = calibration_rows(["abcde"], Letters(), rows=2, length=3)
    assert rows.tolist() == [[0, 1, 2], [3, 4, 5]]
    documents = ["abc", "defgh", "ij"]
    rows = calibration_rows(documents, Letters(), rows=13, length=1)
    stream = "".join(" " if token == 0 else chr(token + ord("a") - 1) for token in rows[:, 0])
    assert stream.startswith(" ") and sorted(stream.split()) == documents


def test_at_most_as_many_rows_as_asked_for_and_fewer_where_the_text_ends() -> None:
    documents = ["abcdefghi"] * 3  # 30 tokens with their zeros
    assert calibration_rows(documents, Letters(), rows=2, length=7).shape == (2, 7)
    assert calibration_rows(documents, Letters(), rows=9, length=7).shape == (4, 7)
    assert calibration_rows(documents, Letters(), rows=1, length=30).shape == (1, 30)


def test_no_more_text_is_encoded_than_needed() -> None:
    """Encoding 30 MB for 64 rows would take a minute."""

    class Counting(Letters):
        documents = 0

        def encode(self, text: str) -> list[int]:
            self.documents += 1
            return super().encode(text)

    tokenizer = Counting()
    calibration_rows(["abcde"] * 100, tokenizer, rows=2, length=10)
    assert tokenizer.documents == 4


def test_the_seed_decides_which_documents_a_few_rows_have() -> None:
    documents = [letter * 20 for letter in "abcdefghijklmnopqrstuvwxyz"]
    first, again, other = (calibration_rows(documents, Letters(), 3, 10, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_a_text_shorter_than_a_row_is_refused() -> None:
    with pytest.raises(CalibrationError, match=r"one row needs 5 tokens, and it has 4\. .* --calib-len 4"):
        calibration_rows(["abc"], Letters(), rows=1, length=5)
    with pytest.raises(CalibrationError, match="too short"):
        calibration_rows([], Letters(), rows=1, length=5)
