"""rwkvquant eval: perplexity on a text, LAMBADA, or scores on images with labels, of a packed file or of an original checkpoint."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rwkvquant.cli.output import JsonOption, emit, interval, stdout, table
from rwkvquant.errors import ConfigError

ContextOption = Annotated[int | None, typer.Option(help="Tokens in a window; every window starts with token 0. Default: 512.")]
BatchOption = Annotated[int | None, typer.Option(help="Windows, or images, that are evaluated together. Default: 8, or 16 images.")]
MaxTokensOption = Annotated[int | None, typer.Option(help="Stop after this many predicted tokens.")]
ImagesOption = Annotated[
    str | None, typer.Option(help="For a model for images: a folder, or an .npz, of images that it was not calibrated on (docs/images.md).")
]
MaxImagesOption = Annotated[int | None, typer.Option(help="With --images: use only so many, evenly spread.")]
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

ForwardOption = Annotated[
    str | None,
    typer.Option(
        help="What runs the model: torch, with decoded weights (the default); native, the engine that ships; or int4 (also int2 to "
        "int8, and int4/32): torch, with the inputs of products rounded in groups of 64 (32) columns."
    ),
]


def command(
    file: Annotated[str, typer.Argument(help="A packed file or a checkpoint.")],
    text: Annotated[str | None, typer.Option(help="Text to measure perplexity on.")] = None,
    lambada: Annotated[str | None, typer.Option(help="LAMBADA as .jsonl; measured as BlinkDL does.")] = None,
    images: ImagesOption = None,
    context: ContextOption = None,
    batch: BatchOption = None,
    max_tokens: MaxTokensOption = None,
    max_docs: Annotated[int | None, typer.Option(help="With --lambada: use only this many documents.")] = None,
    max_images: MaxImagesOption = None,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    forward: ForwardOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure perplexity on a text, LAMBADA, or the accuracy of a model for images: top-1 and top-5, mIoU, or AP and AP50."""
    if [text, lambada, images].count(None) != 2:
        raise ConfigError("eval needs one of --text FILE, --lambada FILE and --images SET")
    from rwkvquant.cli.progress import Counter
    from rwkvquant.evaluation import files

    if images is not None:
        refuse_with_images(context=context, max_tokens=max_tokens, max_docs=max_docs, tokenizer=tokenizer, adapter=adapter, forward=forward)
        with Counter("images") as bar:
            scores = files.evaluate_images(file, images, max_images=max_images, progress=bar, **given(batch=batch)).to_json()
        emit({"file": file, **scores}, as_json, lambda: stdout.print(table(file, ["", ""], score_rows(scores))))
        return
    refuse_without_images(max_images)
    result: dict[str, Any]
    if text is not None:
        with Counter("windows") as bar:
            options = given(context=context, batch=batch, max_tokens=max_tokens, tokenizer=tokenizer, adapter=adapter, forward=forward)
            result = files.evaluate(file, text, progress=bar, **options).to_json()
    else:
        assert lambada is not None
        with Counter("documents") as bar:
            options = given(batch=batch, max_docs=max_docs, tokenizer=tokenizer, adapter=adapter, forward=forward)
            result = files.evaluate_lambada(file, lambada, progress=bar, **options).to_json()
    rows = [[key, f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"] for key, value in result.items() if key != "forward"]
    rows += [["forward", result["forward"]]]
    emit({"file": file, **result}, as_json, lambda: stdout.print(table(file, ["", ""], rows)))


def given(**options: Any) -> dict[str, Any]:
    """The options that the user gave; functions have their own defaults for the rest."""
    return {name: value for name, value in options.items() if value is not None}


def refuse_with_images(**options: Any) -> None:
    for name in given(**options):
        raise ConfigError(f"--{name.replace('_', '-')} is for text; leave it out with --images")


def refuse_without_images(max_images: int | None) -> None:
    if max_images is not None:
        raise ConfigError("--max-images needs --images SET")


def score_rows(scores: dict[str, Any]) -> list[list[str]]:
    """Of the scores of a model for images: shares in per cent with their intervals, classes side by side."""
    rows = []
    for name, value in sorted(scores.items(), key=lambda item: item[0] == "images"):
        if isinstance(value, float):
            bounds = scores.get(f"{name}_ci95")
            rows.append([name, f"{100 * value:.2f} %{interval(bounds and [100 * bound for bound in bounds], '.2f')}"])
        elif name in ("iou", "ap50_of_class"):
            rows.append([name, " ".join("-" if share is None else f"{100 * share:.1f}" for share in value)])
        elif name == "images":
            rows.append([name, f"{value:,}"])
    return rows
