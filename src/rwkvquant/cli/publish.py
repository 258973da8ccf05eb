"""`rwkvquant quantize --card`: quantise, measure if there is a text for it, and write a model card and config.json."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rwkvquant.cli.progress import Counter


def publish(
    checkpoint: str,
    output: str,
    quantise: Callable[[], dict[str, Any]],
    licence: str | None,
    base_model: str | None,
    card_text: str | None,
) -> dict[str, Any]:
    """The result of `quantise`, which writes `output`, with the paths that were written and the measured divergence.

    What would stop publishing is reported before the work.
    """
    from rwkvquant.calibration.samples import load_documents
    from rwkvquant.checkpoints import open_text_checkpoint
    from rwkvquant.exporting import card

    publication = card.prepare(checkpoint, output, licence, base_model)
    if card_text is not None:
        open_text_checkpoint(checkpoint)
        load_documents(card_text)
    result = quantise()
    divergence = {"text": card_text, **_compare(checkpoint, output, card_text)} if card_text is not None else None
    return result | {"card": card.publish(publication, divergence), "divergence": divergence}


def _compare(checkpoint: str, output: str, text: str) -> dict[str, Any]:
    from rwkvquant.evaluation.files import compare

    with Counter("windows") as progress:
        return compare(checkpoint, output, text, progress=progress).to_json()
