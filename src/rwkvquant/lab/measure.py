"""The numbers of a cell: the file's predictions compared with the original's, on the text of the specification."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.calibration.samples import load_documents
from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.config import CalibrationConfig
from rwkvquant.evaluation import divergence, windows
from rwkvquant.evaluation.divergence import Comparison
from rwkvquant.evaluation.forwards import NATIVE, TORCH
from rwkvquant.evaluation.load import load_forward, load_model
from rwkvquant.evaluation.windows import Windows
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.lab.spec import LabModel, Spec
from rwkvquant.models import TorchModel
from rwkvquant.runtime.session import is_packed
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer

KEPT = ("kl_mean", "kl_ci95", "kl_p99", "kl_max", "top1_agreement", "top1_ci95", "ppl_base", "ppl_quantized", "delta_ppl", "tokens")
CONDITIONS = ("windows_sha256", "resamples", "seed")


class Bench:
    """The original of the current model, and its windows; both are kept from cell to cell."""

    def __init__(self, spec: Spec, progress: Callable[[int, int], None] | None = None) -> None:
        self._spec, self._progress = spec, progress
        self._of = functools.lru_cache(maxsize=1)(self._load)
        self._overlap = functools.lru_cache(maxsize=16)(self._shared)

    def tokenizer(self, model: LabModel) -> TokenizerData:
        return _tokenizer(model).to_data()

    def shared_16_grams(self, model: LabModel, calibration: CalibrationConfig | None) -> float | None:
        """The share, 0 to 1, of the measured text's runs of 16 tokens that are in the calibration text; None if that is not known.

        A model that was calibrated on what is measured looks better than it is. All of the calibration text is looked at, not only the
        rows that are read.
        """
        return None if calibration is None else self._overlap(model, calibration.path)

    def _shared(self, model: LabModel, path: str | None) -> float:
        tokenizer, cut = _tokenizer(model), self._of(model)[1]
        documents = load_documents(path or str(resources.files("rwkvquant") / "assets" / "calibration.txt"))
        read = [np.array(tokenizer.encode(document), np.int64) for document in documents]
        measured = [targets[mask] for targets, mask in zip(cut.targets, cut.mask, strict=True)]
        return shared_runs(measured, read)

    def _load(self, model: LabModel) -> tuple[TorchModel, Windows]:
        base, tokenizer = load_model(model.checkpoint, model.tokenizer)
        return base, windows.text_windows(self._spec.text, tokenizer, context=self._spec.context, max_tokens=self._spec.max_tokens)

    def measure(self, model: LabModel, file: Path) -> dict[str, Any]:
        """The numbers of the torch forward, those of the bootstrap, and "forwards": the numbers of each other forward.

        Numbers are fields of CompareResult, and "each_window": its tokens, and the sums of KL and of the quantised model's nll. With
        `positions` also "by_position" (evaluation/positions.py). Files of other tools are not run by our engine: they have no "native".
        """
        base, cut = self._of(model)
        names = [TORCH, *(name for name in self._spec.forwards if name != NATIVE or is_packed(file))]
        models = {name: load_forward(str(file), model.tokenizer, name)[0] for name in names}
        found = divergence.compare_many(base, models, cut, progress=self._progress)
        results = {name: compared.to_json() for name, compared in found.items()}
        numbers = {name: _numbers(compared, results[name], self._spec.positions) for name, compared in found.items()}
        torch_forward = numbers.pop(TORCH) | {name: results[TORCH][name] for name in CONDITIONS}
        return torch_forward | ({"forwards": numbers} if numbers else {})


def _numbers(compared: Comparison, result: Mapping[str, Any], positions: bool) -> dict[str, Any]:
    sums = compared.window_sums
    each = {"tokens": compared.windows.tokens_each.tolist(), "kl": sums[0].tolist(), "nll_quantized": sums[3].tolist()}
    more = {"by_position": compared.by_position().to_json()} if positions else {}
    return {**{name: result[name] for name in KEPT}, "each_window": each, **more}


def shared_runs(measured: Sequence[NDArray[np.int64]], read: Sequence[NDArray[np.int64]], length: int = 16) -> float:
    """The share of runs of `length` tokens within one of `measured` that are also within one of `read`. 0 where there are no runs.

    Runs are compared by a 64-bit hash.
    """
    factors = np.random.default_rng(0).integers(0, 1 << 63, length, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def hashes(texts: Sequence[NDArray[np.int64]]) -> NDArray[np.uint64]:
        long = [np.lib.stride_tricks.sliding_window_view(text.astype(np.uint64), length) for text in texts if len(text) >= length]
        return np.concatenate([(runs * factors).sum(-1, dtype=np.uint64) for runs in long] or [np.empty(0, np.uint64)])

    of_measured = hashes(measured)
    return float(np.isin(of_measured, hashes(read)).mean()) if len(of_measured) else 0.0


def _tokenizer(model: LabModel) -> Tokenizer:
    checkpoint = open_text_checkpoint(model.checkpoint)
    return load_tokenizer(model.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
