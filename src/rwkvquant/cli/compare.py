"""rwkvquant compare: what quantisation did to a model's predictions, with error bars."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.evaluate import AdapterOption, BatchOption, ContextOption, MaxTokensOption, TokenizerOption
from rwkvquant.cli.output import Counter, JsonOption, emit, interval, stdout, table
from rwkvquant.results import CompareResult

CONTEXT, BATCH = 512, 8


def command(
    original: Annotated[str, typer.Argument(help="The original checkpoint (or any file to compare with).")],
    quantised: Annotated[str, typer.Argument(help="The packed file.")],
    text: Annotated[str, typer.Option(help="Text to compare on; not the calibration text.")],
    context: ContextOption = CONTEXT,
    batch: BatchOption = BATCH,
    max_tokens: MaxTokensOption = None,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a packed file with its original: KL divergence, same top token, perplexity."""
    from rwkvquant.evaluation.files import compare

    with Counter("windows") as progress:
        result = compare(
            original,
            quantised,
            text,
            context=context,
            batch=batch,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
            adapter=adapter,
            progress=progress,
        )
    emit({"original": original, "quantised": quantised, **result.to_json()}, as_json, lambda: show(result))


def show(result: CompareResult) -> None:
    rows = [
        ["KL divergence, nats/token", f"{result.kl_mean:.5f}{interval(result.kl_ci95, '.5f')}"],
        ["KL divergence, 99th percentile", f"{result.kl_p99:.4f}"],
        ["same top token", f"{100 * result.top1_agreement:.2f} %"],
        ["perplexity, original", f"{result.ppl_base:.3f}"],
        ["perplexity, quantised", f"{result.ppl_quantized:.3f}"],
        ["change of perplexity", f"{result.delta_ppl:+.3f}{interval(result.delta_ppl_ci95, '+.3f')}"],
        ["tokens", f"{result.tokens:,}"],
    ]
    stdout.print(table("quantised against original; brackets are 95 % intervals", ["", ""], rows))
