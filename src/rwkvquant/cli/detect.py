"""rwkvquant detect: boxes around what a model finds in a picture, in a PNG. Needs no torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from rwkvquant.cli.classify import FileArgument, ImagesArgument, bar
from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.output import JsonOption, stdout
from rwkvquant.cli.pictures import OutputOption, Pixels, draw_each, outputs
from rwkvquant.results import DetectResult


def command(
    file: FileArgument,
    images: ImagesArgument,
    output: OutputOption = None,
    threshold: Annotated[float, typer.Option(help="Leave out boxes with a lower score, 0 to 1.")] = 0.3,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find things and where they are: writes a picture with boxes beside each one, and lists the boxes."""
    from rwkvquant.images.draw import Frame, colour_of, frames
    from rwkvquant.runtime.session import load

    written = outputs(images, output, "detect")
    model = load(file, threads=threads, pages=pages, modality="image")

    def draw(pixels: Pixels, found: DetectResult) -> Pixels:
        return frames(pixels, [Frame(box.left, box.top, box.right, box.bottom, colour_of(box.index), box.name) for box in found.boxes])

    draw_each(file, images, written, lambda image: model.detect(image, threshold)[0], draw, show_boxes, as_json)


def show_boxes(result: DetectResult) -> None:
    from rwkvquant.images.draw import colour_of

    if not result.boxes:
        stdout.print("  nothing found; try a lower --threshold")
        return
    longest = max(len(box.name) for box in result.boxes)
    for box in result.boxes:
        red, green, blue = colour_of(box.index)
        place = f"{box.left:5.0f} {box.top:5.0f} {box.right:5.0f} {box.bottom:5.0f}  "
        shown = bar(box.score, f"rgb({red},{green},{blue})")
        stdout.print(Text.assemble(f"  {box.name:<{longest}}  {100 * box.score:5.1f} %  {place}", shown))
