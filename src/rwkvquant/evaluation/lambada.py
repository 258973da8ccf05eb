"""LAMBADA by BlinkDL's protocol: is the last word of a passage what the model expects?

    text = prefix + " " + word          split at the last space
    src = [0] + encode(prefix)          dst = encode(" " + word)          encoded separately
    logp = sum of ln p(dst_i | src, dst_<i)                               correct iff every dst_i is the most likely token
    ppl = exp(-mean of logp over the documents): per word, not per token          acc = correct / documents, from 0 to 1

BlinkDL's script prints acc in percent and computes the softmax in float32. Here acc is a fraction, and the softmax is in float64.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import CalibrationError, ConfigError
from rwkvquant.evaluation.scoring import LogitModel, OnBatch, perplexity_of, score
from rwkvquant.evaluation.windows import END_OF_TEXT, TextTokenizer, Windows


@dataclass(frozen=True)
class Lambada:
    """logp (docs,) natural log-probability of each last word; correct (docs,) bool. In the order of the file."""

    logp: NDArray[np.float64]
    correct: NDArray[np.bool_]

    @property
    def ppl(self) -> float:
        return perplexity_of(-float(self.logp.mean()))

    @property
    def acc(self) -> float:
        return float(self.correct.mean())

    def to_json(self) -> dict[str, Any]:
        return {"ppl": self.ppl, "acc": self.acc, "docs": len(self.logp)}


def lambada(
    model: LogitModel,
    tokenizer: TextTokenizer,
    path: str | Path,
    *,
    batch: int = 8,
    max_docs: int | None = None,
    progress: OnBatch | None = None,
) -> Lambada:
    """Measure on the first `max_docs` documents of a .jsonl file.

    Raises the errors of load_texts and score_texts, and ConfigError if max_docs is below 1.
    """
    if max_docs is not None and max_docs < 1:
        raise ConfigError(f"max_docs must be at least 1; got {max_docs}. Leave it out to use the whole file.")
    return score_texts(model, tokenizer, load_texts(path)[:max_docs], batch=batch, progress=progress)


def score_texts(
    model: LogitModel, tokenizer: TextTokenizer, texts: Sequence[str], *, batch: int = 8, progress: OnBatch | None = None
) -> Lambada:
    """`progress` gets (documents done, documents in all). Raises TokenizerError for a token outside the model's vocabulary."""
    rows, first = [], []
    for text in texts:
        prefix, word = text.rsplit(" ", 1)
        src, dst = [END_OF_TEXT, *tokenizer.encode(prefix)], list(tokenizer.encode(" " + word))
        rows.append(src + dst)
        first.append(len(src))
    windows = Windows.from_rows(rows, first, text_bytes=sum(len(text.encode()) for text in texts))
    scores = score(model, windows, batch=batch, progress=progress)
    misses = windows.sums((~scores.top1).astype(np.float64))
    return Lambada(logp=-windows.sums(scores.nll), correct=misses == 0)


def load_texts(path: str | Path) -> list[str]:
    """The "text" of each line. Blank lines are skipped.

    Raises CalibrationError with the line's number, unless the line is a JSON object with a "text" of at least two words.
    """
    try:
        lines = Path(path).read_bytes().splitlines()
    except OSError as error:
        raise CalibrationError(f"LAMBADA must be a readable .jsonl file; {path} is not ({error.strerror})") from error
    texts = [_text(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not texts:
        raise CalibrationError(f"LAMBADA needs at least one document; {path} has none")
    return texts


def _text(line: bytes, where: str) -> str:
    try:
        text = json.loads(line)["text"]
        text.encode()  # a lone surrogate is valid JSON, but not valid text
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CalibrationError(f'a line of LAMBADA must be a JSON object like {{"text": "..."}} in UTF-8; {where} is not') from error
    if " " not in text:
        raise CalibrationError(f"LAMBADA predicts the last word of a text, so the text needs a space before it; {where} has none")
    return str(text)
