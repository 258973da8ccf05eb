"""rwkvquant eval: perplexity on a text, or LAMBADA, of a packed file or of an original checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rwkvquant.cli.output import Counter, JsonOption, emit, stdout, table
from rwkvquant.errors import ConfigError

ContextOption = Annotated[int, typer.Option(help="Tokens in a window; every window starts with token 0.")]
BatchOption = Annotated[int, typer.Option(help="Windows that are evaluated together.")]
MaxTokensOption = Annotated[int | None, typer.Option(help="Stop after this many predicted tokens.")]
TokenizerOption = Annotated[
    str | None,
    typer.Option(help="world | bytes | FILE. Default: a packed file's own, or the one next to a checkpoint."),
]
AdapterOption = Annotated[
    str | None,
    typer.Option(
        help="Merge a LoRA, PiSSA or Bone adapter into the checkpoint: a PEFT directory, or a .pth as FILE, FILE,alpha=NUMBER or "
        "FILE,init=FILE."
    ),
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
    adapter: AdapterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity on a text, or LAMBADA."""
    if (text is None) == (lambada is None):
        raise ConfigError("eval needs either --text FILE or --lambada FILE")
    from rwkvquant.evaluation import files

    result: dict[str, Any]
    if text is not None:
        with Counter("windows") as bar:
            options: dict[str, Any] = {
                "context": context,
                "batch": batch,
                "max_tokens": max_tokens,
                "tokenizer": tokenizer,
                "adapter": adapter,
            }
            result = files.evaluate(file, text, progress=bar, **options).to_json()
    else:
        assert lambada is not None
        with Counter("documents") as bar:
            options = {"batch": batch, "max_docs": max_docs, "tokenizer": tokenizer, "adapter": adapter}
            result = files.evaluate_lambada(file, lambada, progress=bar, **options).to_json()
    rows = [[key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"] for key, value in result.items()]
    emit({"file": file, **result}, as_json, lambda: stdout.print(table(file, ["", ""], rows)))
