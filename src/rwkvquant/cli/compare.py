"""rwkvquant compare: what quantisation did to a model's predictions, with error bars."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rwkvquant.cli.evaluate import BatchOption, ContextOption, MaxTokensOption, TokenizerOption
from rwkvquant.cli.output import Counter, JsonOption, emit, interval, stdout, table

CONTEXT, BATCH = 512, 8


def command(
    original: Annotated[str, typer.Argument(help="The original checkpoint (or any file to compare with).")],
    quantised: Annotated[str, typer.Argument(help="The packed file.")],
    text: Annotated[str, typer.Option(help="Text to compare on; not the calibration text.")],
    context: ContextOption = CONTEXT,
    batch: BatchOption = BATCH,
    max_tokens: MaxTokensOption = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a packed file with its original: KL divergence, same top token, perplexity."""
    result = compare_files(original, quantised, text, context, batch, max_tokens, tokenizer)
    emit({"original": original, "quantised": quantised, **result}, as_json, lambda: show(result))


def compare_files(
    original: str,
    quantised: str,
    text: str,
    context: int = CONTEXT,
    batch: int = BATCH,
    max_tokens: int | None = None,
    tokenizer: str | None = None,
) -> dict[str, Any]:
    """The numbers of evaluation/divergence.py as plain JSON, with a bar on a terminal."""
    from rwkvquant.evaluation import divergence, windows
    from rwkvquant.evaluation.load import load_pair

    base, changed, known = load_pair(original, quantised, tokenizer)
    cut = windows.text_windows(text, known, context=context, max_tokens=max_tokens)
    with Counter("windows") as progress:
        return divergence.compare(base, changed, cut, batch=batch, progress=progress).to_json()


def show(result: dict[str, Any]) -> None:
    rows = [
        ["KL divergence, nats/token", f"{result['kl_mean']:.5f}{interval(result['kl_ci95'], '.5f')}"],
        ["KL divergence, 99th percentile", f"{result['kl_p99']:.4f}"],
        ["same top token", f"{100 * result['top1_agreement']:.2f} %"],
        ["perplexity, original", f"{result['ppl_base']:.3f}"],
        ["perplexity, quantised", f"{result['ppl_quantized']:.3f}"],
        ["change of perplexity", f"{result['delta_ppl']:+.3f}{interval(result['delta_ppl_ci95'], '+.3f')}"],
        ["tokens", f"{result['tokens']:,}"],
    ]
    stdout.print(table("quantised against original; brackets are 95 % intervals", ["", ""], rows))
