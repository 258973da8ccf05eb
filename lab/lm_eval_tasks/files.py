"""Local files -> data sets of lm-evaluation-harness, for the tasks in this folder. Nothing is downloaded.

Each function is a `custom_dataset`: it gets `data_dir`, the folder that `--metadata data_dir=FOLDER` names, and `questions`, a file in
it, and ignores what else lm_eval passes.
All give the split "test". `query`, `choices` and `gold` (an index) are the fields of tasks with choices.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from rwkvquant.errors import ConfigError


def lines(questions: str, data_dir: str | None = None, **others: Any) -> DatasetDict:
    """A JSON object in each line, with the fields that the task names."""
    return _split([json.loads(line) for line in _text(data_dir, questions).splitlines() if line.strip()])


def headqa(questions: str, data_dir: str | None = None, **others: Any) -> DatasetDict:
    """The JSON of HeadQA: exams with questions, whose right answer `ra` counts from 1."""
    exams = json.loads(_text(data_dir, questions))["exams"].values()
    return _split(
        [
            {"query": each["qtext"], "choices": [answer["atext"] for answer in each["answers"]], "gold": int(each["ra"]) - 1}
            for exam in exams
            for each in exam["data"]
        ]
    )


def hellaswag(questions: str, data_dir: str | None = None, **others: Any) -> DatasetDict:
    """Six lines for each question, as in llama.cpp's file: the text, the index of the right ending, four endings."""
    found = _text(data_dir, questions).splitlines()
    return _split(
        [{"query": found[at], "choices": found[at + 2 : at + 6], "gold": int(found[at + 1])} for at in range(0, len(found) - 5, 6)]
    )


def sciq(questions: str, data_dir: str | None = None, **others: Any) -> DatasetDict:
    """The instructions of LLM-Adapters: a question and four answers in one text. It has no passage that supports the answer."""
    return _split(list(_questions(json.loads(_text(data_dir, questions)))))


def _questions(entries: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    for entry in entries:
        asked = re.fullmatch(r".*?question: (.*?)\n\n(Answer1: .*?)\n\nAnswer format.*", entry["instruction"], re.DOTALL)
        assert asked is not None, entry["instruction"]
        choices = re.split(r"\n?Answer\d: ", asked[2])[1:]
        yield {
            "query": asked[1].strip(),
            "choices": [choice.strip() for choice in choices],
            "gold": int(entry["answer"].removeprefix("answer")) - 1,
        }


def _split(rows: list[dict[str, Any]]) -> DatasetDict:
    return DatasetDict({"test": Dataset.from_list(rows)})


def _text(data_dir: str | None, questions: str) -> str:
    if data_dir is None:
        raise ConfigError("these tasks read local files; say where they are: --metadata data_dir=FOLDER")
    path = Path(data_dir) / questions
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {'there is no such file' if isinstance(error, FileNotFoundError) else error.strerror}") from None
