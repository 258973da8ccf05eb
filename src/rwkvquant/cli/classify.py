"""rwkvquant classify: what is in a picture. Needs no torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.histogram import EIGHTHS
from rwkvquant.cli.output import JsonOption, emit, stdout
from rwkvquant.results import ClassifyResult

FileArgument = Annotated[str, typer.Argument(help="A packed file or a checkpoint of a model for images.")]
ImagesArgument = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Files of images: JPEG, PNG, WebP, BMP, GIF, TIFF, PPM.")]

WIDTH = 30  # characters of the longest bar
BAR_STYLE = "cyan"


def command(
    file: FileArgument,
    images: ImagesArgument,
    top: Annotated[int, typer.Option(min=1, help="Show this many classes, the likeliest first.")] = 5,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Say what is in each picture: the likeliest classes, with bars for their probabilities."""
    from rwkvquant.runtime.session import load

    model = load(file, threads=threads, pages=pages, modality="image")
    results = model.classify(images, top)
    rows = [{"file": name, **result.to_json()} for name, result in zip(images, results, strict=True)]

    def show() -> None:
        for name, result in zip(images, results, strict=True):
            stdout.print(name, style="bold")
            show_classes(result)

    emit({"model": file, "images": rows}, as_json, show)


def show_classes(result: ClassifyResult) -> None:
    longest = max(len(score.name) for score in result.top)
    for score in result.top:
        stdout.print(Text.assemble(f"  {score.name:<{longest}}  {100 * score.probability:5.1f} %  ", bar(score.probability)))


def bar(share: float, style: str = BAR_STYLE) -> Text:
    """`share` in 0..1 of WIDTH characters; anything above 0 shows. In ASCII where the output has no other characters."""
    if stdout.options.ascii_only:
        return Text("#" * (round(share * WIDTH) or int(share > 0)), style)
    whole, rest = divmod(round(8 * share * WIDTH) or int(share > 0), 8)
    return Text(EIGHTHS[-1] * whole + EIGHTHS[rest] * (rest > 0), style)
