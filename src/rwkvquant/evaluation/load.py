"""Open a packed file or a checkpoint for measuring: a torch model and its tokenizer."""

from __future__ import annotations

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.formats.container import open_text_packed
from rwkvquant.models import CheckpointSource, PackedSource, TorchModel
from rwkvquant.runtime.session import is_packed, refuse_adapter
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer


def load_model(file: str, tokenizer: str | None = None, adapter: str | None = None) -> tuple[TorchModel, Tokenizer]:
    """A packed file holds its tokenizer. `tokenizer` (world | bytes | a file) is for checkpoints, or replaces the packed one.

    `adapter` is merged into a checkpoint. Raises ConfigError for a packed file with one.
    """
    if not is_packed(file):
        checkpoint = open_text_checkpoint(file, adapter or "")
        return TorchModel(CheckpointSource(checkpoint)), load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    refuse_adapter(file, adapter)
    packed = open_text_packed(file)
    chosen = from_data(packed.tokenizer, packed.dims.vocab) if tokenizer is None else load_tokenizer(tokenizer, packed.dims.vocab)
    return TorchModel(PackedSource(packed)), chosen


def load_pair(
    original: str, quantized: str, tokenizer: str | None = None, adapter: str | None = None
) -> tuple[TorchModel, TorchModel, Tokenizer]:
    """(original, quantised model, tokenizer). The tokenizer is the quantised file's, because a checkpoint may have none.

    `adapter` is merged into the original, which is then a checkpoint.
    """
    changed, chosen = load_model(quantized, tokenizer)
    if not is_packed(original):
        return TorchModel(CheckpointSource(open_text_checkpoint(original, adapter or ""))), changed, chosen
    refuse_adapter(original, adapter)
    return TorchModel(PackedSource(open_text_packed(original))), changed, chosen
