"""Open a packed file or a checkpoint for measuring: a model that predicts, and its tokenizer."""

from __future__ import annotations

import torch

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.forwards import NATIVE, TORCH, Forward, forward_named
from rwkvquant.evaluation.native_model import NativeModel
from rwkvquant.evaluation.scoring import LogitModel
from rwkvquant.formats.container import open_text_packed
from rwkvquant.kernels import dispatch
from rwkvquant.models import CheckpointSource, InputRounding, PackedSource, TorchModel
from rwkvquant.runtime.session import is_packed, load, refuse_adapter
from rwkvquant.runtime.threads import MAX_THREADS
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer


def load_model(file: str, tokenizer: str | None = None, adapter: str | None = None) -> tuple[TorchModel, Tokenizer]:
    """A packed file holds its tokenizer. `tokenizer` (world | bytes | a file) is for checkpoints, or replaces the packed one.

    `adapter` is merged into a checkpoint. Raises ConfigError for a packed file with one.
    """
    return _torch_model(file, tokenizer, adapter, forward_named(TORCH))


def load_forward(file: str, tokenizer: str | None = None, forward: str = TORCH, adapter: str | None = None) -> tuple[LogitModel, Tokenizer]:
    """The same with any forward of forwards.py. Raises ConfigError for an unknown one."""
    wanted = forward_named(forward)
    if wanted.name != NATIVE:
        return _torch_model(file, tokenizer, adapter, wanted)
    return _native_model(file, tokenizer, adapter)


def load_pair(
    original: str, quantized: str, tokenizer: str | None = None, adapter: str | None = None, forward: str = TORCH
) -> tuple[TorchModel, LogitModel, Tokenizer]:
    """(original, quantised model, tokenizer). The tokenizer is the quantised file's, because a checkpoint may have none.

    `adapter` is merged into the original, which is then a checkpoint. `forward` is of the quantised model.
    """
    changed, chosen = load_forward(quantized, tokenizer, forward)
    if not is_packed(original):
        return TorchModel(CheckpointSource(open_text_checkpoint(original, adapter or ""))), changed, chosen
    refuse_adapter(original, adapter)
    return TorchModel(PackedSource(open_text_packed(original))), changed, chosen


def _torch_model(file: str, tokenizer: str | None, adapter: str | None, forward: Forward) -> tuple[TorchModel, Tokenizer]:
    inputs = None if forward.bits is None else InputRounding(forward.bits, forward.group)
    if not is_packed(file):
        checkpoint = open_text_checkpoint(file, adapter or "")
        known = load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
        return TorchModel(CheckpointSource(checkpoint, inputs=inputs)), known
    refuse_adapter(file, adapter)
    packed = open_text_packed(file)
    chosen = from_data(packed.tokenizer, packed.dims.vocab) if tokenizer is None else load_tokenizer(tokenizer, packed.dims.vocab)
    return TorchModel(PackedSource(packed, inputs=inputs)), chosen


def _native_model(file: str, tokenizer: str | None, adapter: str | None) -> tuple[LogitModel, Tokenizer]:
    """With int8 activations, whatever RWKVQUANT_ACTIVATIONS says, and as many threads as torch has: results do not depend on them."""
    if dispatch.native_module() is None:
        raise ConfigError("the forward native is the native module, which is missing here (docs/building.md); measure with torch or int8")
    model = load(file, tokenizer, min(torch.get_num_threads(), MAX_THREADS), "int8", adapter=adapter, modality="text")
    return NativeModel(model), model.tokenizer
