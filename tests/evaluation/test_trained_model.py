"""The same promises on a trained checkpoint, whose forward works in chunks: padding and batches must change nothing."""

import json
from pathlib import Path

import numpy as np
import pytest

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.evaluation.divergence import compare
from rwkvquant.evaluation.lambada import lambada
from rwkvquant.evaluation.perplexity import perplexity
from rwkvquant.evaluation.windows import document_windows
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer

DATA = Path(__file__).parents[1] / "data"
PASSAGE = "The old man sat by the fire and looked at his hands. It was late, and the rain had not ceased since the morning. "
TEXTS = [PASSAGE * 2 + "He said nothing.", "She opened the door.", PASSAGE + "At last they went to bed.", "Yes, sir."]


@pytest.fixture(scope="module", params=["rwkv7-tiny.pth", "rwkv6-8m.pth"])
def model(request: pytest.FixtureRequest) -> TorchModel:
    return TorchModel(CheckpointSource(open_checkpoint(DATA / request.param)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(str(DATA / "tokenizer.json"), 4096)


def test_batches_and_padding_change_only_the_rounding(model: TorchModel, tokenizer: Tokenizer) -> None:
    windows = document_windows(TEXTS, tokenizer, context=24)
    alone, together = (perplexity(model, windows, batch=batch).token_nll for batch in (1, 8))
    # Matrix products of other shapes sum in another order: float32 logits of about 10 change by about 1e-5.
    np.testing.assert_allclose(together, alone, atol=2e-4)
    assert 10 < np.exp(alone.mean()) < 300  # trained on books, so far from 4096; a shifted target gives thousands


def test_a_model_does_not_diverge_from_itself(model: TorchModel, tokenizer: Tokenizer) -> None:
    result = compare(model, model, document_windows(TEXTS, tokenizer, context=24)).to_json()
    assert (result["kl_max"], result["top1_agreement"], result["delta_ppl"]) == (0.0, 1.0, 0.0)


def test_lambada_in_batches_is_lambada_one_by_one(model: TorchModel, tokenizer: Tokenizer, tmp_path: Path) -> None:
    path = tmp_path / "lambada.jsonl"
    path.write_text("".join(json.dumps({"text": text.rstrip(".")}) + "\n" for text in TEXTS))
    alone, together = (lambada(model, tokenizer, path, batch=batch) for batch in (1, 8))
    np.testing.assert_allclose(together.logp, alone.logp, atol=1e-3)
    assert together.correct.tolist() == alone.correct.tolist()
