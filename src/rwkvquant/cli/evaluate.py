"""rwkvquant eval: perplexity on a text, or LAMBADA, of a packed file or of an original checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import Counter, JsonOption, emit, stdout, table
from rwkvquant.errors import ConfigError

ContextOption = Annotated[int, typer.Option(help="Tokens in a window; every window starts with token 0.")]
BatchOption = Annotated[int, typer.Option(help="Windows that are evaluated together.")]
MaxTokensOption = Annotated[int | None, typer.Option(help="Stop after this many predicted tokens.")]
TokenizerOption = Annotated[
    str | None, typer.Option(help="world | bytes | FILE. Default: a packed file's own; a checkpoint's by its vocabulary size.")
]


def command(
    file: Annotated[str, typer.Argument(help="A packed file or a checkpoint.")],
    text: Annotated[str | None, typer.Option(help="Text to measure perplexity on.")] = None,
    lambada: Annotated[str | None, typer.Option(help="LAMBADA as .jsonl; measured as BlinkDL does.")] = None,
    context: ContextOption = 512,
    batch: BatchOption = 8,
    max_tokens: MaxTokensOption = None,
    max_docs: Annotated[int | None, typer.Option(help="With --lambada: use only this many documents.")] = None,
    tokenizer: TokenizerOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity on a text, or LAMBADA."""
    if (text is None) == (lambada is None):
        raise ConfigError("eval needs either --text FILE or --lambada FILE")
    from rwkvquant.evaluation import lambada as lambada_module
    from rwkvquant.evaluation import perplexity, windows
    from rwkvquant.evaluation.load import load_model

    model, known = load_model(file, tokenizer)
    if text is not None:
        cut = windows.text_windows(text, known, context=context, max_tokens=max_tokens)
        with Counter("windows") as progress:
            result = perplexity.perplexity(model, cut, batch=batch, progress=progress).to_json()
    else:
        assert lambada is not None
        with Counter("documents") as progress:
            result = lambada_module.lambada(model, known, lambada, batch=batch, max_docs=max_docs, progress=progress).to_json()
    rows = [[key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"] for key, value in result.items()]
    emit({"file": file, **result}, as_json, lambda: stdout.print(table(file, ["", ""], rows)))
