"""Open a file to be measured: a packed one or an original checkpoint, as a torch model and its tokenizer."""

from __future__ import annotations

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.formats.container import open_packed
from rwkvquant.models import CheckpointSource, PackedSource, TorchModel
from rwkvquant.runtime.session import is_packed
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer


def load_model(file: str, tokenizer: str | None = None) -> tuple[TorchModel, Tokenizer]:
    """A packed file brings its tokenizer; `tokenizer` (world | bytes | a file) is for checkpoints, or to override it."""
    if not is_packed(file):
        checkpoint = open_checkpoint(file)
        return TorchModel(CheckpointSource(checkpoint)), load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    packed = open_packed(file)
    found = from_data(packed.tokenizer, packed.dims.vocab) if tokenizer is None else load_tokenizer(tokenizer, packed.dims.vocab)
    return TorchModel(PackedSource(packed)), found


def load_pair(original: str, quantised: str, tokenizer: str | None = None) -> tuple[TorchModel, TorchModel, Tokenizer]:
    """Two files over one text. The tokenizer is the quantised file's, since a checkpoint carries none."""
    changed, found = load_model(quantised, tokenizer)
    source = PackedSource(open_packed(original)) if is_packed(original) else CheckpointSource(open_checkpoint(original))
    return TorchModel(source), changed, found
