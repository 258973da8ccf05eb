"""rwkvquant detect: boxes around what a model finds in a picture, in a PNG. Needs no torch."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from rwkvquant.cli.classify import FileArgument, ImagesArgument, bar
from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.output import JsonOption, emit, stdout
from rwkvquant.cli.pictures import OutputOption, outputs, write_picture
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
    from rwkvquant.images import read_image
    from rwkvquant.images.draw import colour_of, frames
    from rwkvquant.runtime.session import load

    written = outputs(images, output, "detect")
    model = load(file, threads=threads, pages=pages, modality="image")
    rows = []
    for name, target in zip(images, written, strict=True):
        (result,) = model.detect(name, threshold)
        corners = [(box.left, box.top, box.right, box.bottom) for box in result.boxes]
        write_picture(target, frames(read_image(name), corners, [colour_of(box.index) for box in result.boxes]))
        rows.append({"file": name, "output": target, **result.to_json()})
        if not as_json:
            stdout.print(f"{name} -> {target}", style="bold")
            show_boxes(result)
    emit({"model": file, "images": rows}, as_json, lambda: None)


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
