"""rwkvquant compare: what quantisation did to a model's predictions, with error bars."""

from __future__ import annotations

import math
from typing import Annotated

import typer

from rwkvquant.cli.evaluate import (
    AdapterOption,
    BatchOption,
    ContextOption,
    ForwardOption,
    ImagesOption,
    MaxImagesOption,
    MaxTokensOption,
    TokenizerOption,
    given,
    refuse_with_images,
    refuse_without_images,
)
from rwkvquant.cli.output import JsonOption, emit, interval, stdout, table
from rwkvquant.cli.progress import Counter
from rwkvquant.errors import ConfigError
from rwkvquant.results import CompareResult, ImageCompareResult

TITLE = "quantised against original; brackets are 95 % intervals"
SCORES = {"top1": "top-1", "miou": "mIoU", "ap50": "AP50"}


def command(
    original: Annotated[str, typer.Argument(help="The original checkpoint (or any file to compare with).")],
    quantised: Annotated[str, typer.Argument(help="The packed file.")],
    text: Annotated[str | None, typer.Option(help="Text to compare on; not the calibration text.")] = None,
    images: ImagesOption = None,
    context: ContextOption = None,
    batch: BatchOption = None,
    max_tokens: MaxTokensOption = None,
    max_images: MaxImagesOption = None,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    forward: ForwardOption = None,
    positions: Annotated[bool, typer.Option("--positions", help="Also show the KL by position in a window; see --context.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a packed file with its original: KL divergence, the same prediction, perplexity or accuracy."""
    if [text, images].count(None) != 1:
        raise ConfigError("compare needs either --text FILE or --images SET")
    from rwkvquant.evaluation import files

    both = {"original": original, "quantised": quantised}
    if images is not None:
        only_text = {"context": context, "max_tokens": max_tokens, "tokenizer": tokenizer, "adapter": adapter, "forward": forward}
        refuse_with_images(**only_text, positions=positions or None)
        with Counter("images") as progress:
            compared = files.compare_images(original, quantised, images, max_images=max_images, progress=progress, **given(batch=batch))
        emit({**both, **compared.to_json()}, as_json, lambda: show_images(compared))
        return
    assert text is not None
    refuse_without_images(max_images)
    with Counter("windows") as progress:
        options = given(context=context, batch=batch, max_tokens=max_tokens, tokenizer=tokenizer, adapter=adapter, forward=forward)
        result = files.compare(original, quantised, text, progress=progress, **options)
    emit({**both, **result.to_json()}, as_json, lambda: show(result, positions))


def show(result: CompareResult, positions: bool = False) -> None:
    rows = [
        ["KL divergence, nats/token", f"{result.kl_mean:.5f}{interval(result.kl_ci95, '.5f')}"],
        ["KL divergence, 99th percentile", f"{result.kl_p99:.4f}"],
        ["same top token", f"{100 * result.top1_agreement:.2f} %"],
        ["perplexity, original", f"{result.ppl_base:.3f}"],
        ["perplexity, quantised", f"{result.ppl_quantized:.3f}"],
        ["change of perplexity", f"{result.delta_ppl:+.3f}{interval(result.delta_ppl_ci95, '+.3f')}"],
        ["tokens", f"{result.tokens:,}"],
        *([] if result.forward == "torch" else [["forward of the quantised model", result.forward]]),
    ]
    stdout.print(table(TITLE, ["", ""], rows))
    if positions:
        head = ["positions", "tokens", "KL, nats/token", "perplexity, original"]
        body = [
            [
                str(row.last) if row.first == row.last else f"{row.first} to {row.last}",
                f"{row.tokens:,}",
                f"{row.kl_mean:.5f}{interval(row.kl_ci95, '.5f')}",
                f"{math.exp(row.nll_base):.2f}",
            ]
            for row in result.kl_by_position
        ]
        stdout.print()
        stdout.print(table("KL by the position of a token in its window", head, body))


def show_images(result: ImageCompareResult) -> None:
    place = {"top1": "image", "miou": "pixel", "ap50": "patch"}.get(str(result.score), "position")
    rows = [
        [f"KL divergence, nats/{place}", f"{result.kl_mean:.6f}{interval(result.kl_ci95, '.6f')}"],
        ["KL divergence, 99th percentile of images", f"{result.kl_p99:.5f}"],
        ["same prediction", f"{100 * result.top1_agreement:.2f} %{_percent(result.top1_ci95, '.2f')}"],
    ]
    if result.score is not None and result.score_base is not None and result.score_quantized is not None:
        name, change = SCORES[result.score], result.score_quantized - result.score_base
        rows += [
            [f"{name}, original", f"{100 * result.score_base:.2f} %"],
            [f"{name}, quantised", f"{100 * result.score_quantized:.2f} %"],
            [f"change of {name}, points", f"{100 * change:+.2f}{_percent(result.delta_score_ci95, '+.2f')}"],
        ]
    stdout.print(table(TITLE, ["", ""], [*rows, ["images", f"{result.images:,}"]]))


def _percent(bounds: tuple[float, float] | None, form: str) -> str:
    return interval(bounds and [100 * bound for bound in bounds], form)
