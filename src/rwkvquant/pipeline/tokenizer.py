"""The tokenizer of a job, and what the user should know about it."""

from __future__ import annotations

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.pipeline.progress import Progress
from rwkvquant.recipes import Recipe
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer
from rwkvquant.runtime.tokenizer_package import INSTALL, is_installed

COMPARED = 64, 1000  # documents, and characters of each, on which our reader of a tokenizer.json is compared with the package's


def tokenizer_for(checkpoint: Checkpoint, recipe: Recipe, documents: list[str], progress: Progress) -> Tokenizer:
    """The one that the user named, or the checkpoint's, compared on `documents`, the calibration text.

    Raises TokenizerError if there is none, or if it does not fit.
    """
    count, length = COMPARED
    samples = [document[:length] for document in documents[:count]]
    tokenizer = load_tokenizer(recipe.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab, samples)
    kind = tokenizer.to_data().kind
    if kind == "json":
        progress.note(f"{tokenizer.source} is kept whole in the packed file; to run that, the tokenizers package is needed: {INSTALL}")
    elif kind.startswith("bpe") and not is_installed():
        progress.note(f"{tokenizer.source} was not compared with the tokenizers package, which is not installed: {INSTALL}")
    return tokenizer
