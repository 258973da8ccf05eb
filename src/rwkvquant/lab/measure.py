"""The numbers of a cell: the file's predictions compared with the original's, on the text of the specification."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.load import load_model
from rwkvquant.evaluation.windows import Windows
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.lab.spec import LabModel, Spec
from rwkvquant.models import TorchModel
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer

KEPT = ("kl_mean", "kl_ci95", "kl_p99", "kl_max", "top1_agreement", "top1_ci95", "ppl_base", "ppl_quantized", "delta_ppl", "tokens")
CONDITIONS = ("windows_sha256", "resamples", "seed")


class Bench:
    """The original of the current model, and its windows; both are kept from cell to cell."""

    def __init__(self, spec: Spec, progress: Callable[[int, int], None] | None = None) -> None:
        self._spec, self._progress = spec, progress
        self._of = functools.lru_cache(maxsize=1)(self._load)

    def tokenizer(self, model: LabModel) -> TokenizerData:
        return _tokenizer(model).to_data()

    def _load(self, model: LabModel) -> tuple[TorchModel, Windows]:
        base, tokenizer = load_model(model.checkpoint, model.tokenizer)
        return base, windows.text_windows(self._spec.text, tokenizer, context=self._spec.context, max_tokens=self._spec.max_tokens)

    def measure(self, model: LabModel, file: Path) -> dict[str, Any]:
        """The fields of CompareResult; and for each window its tokens, and the sums of KL and of the quantised model's nll."""
        base, cut = self._of(model)
        compared = divergence.compare(base, load_model(str(file), model.tokenizer)[0], cut, progress=self._progress)
        numbers, sums = compared.to_json(), compared.window_sums
        each = {"tokens": cut.tokens_each.tolist(), "kl": sums[0].tolist(), "nll_quantized": sums[3].tolist()}
        return {**{name: numbers[name] for name in (*KEPT, *CONDITIONS)}, "each_window": each}


def _tokenizer(model: LabModel) -> Tokenizer:
    checkpoint = open_text_checkpoint(model.checkpoint)
    return load_tokenizer(model.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
