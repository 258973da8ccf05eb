"""rwkvquant segment: the class of each pixel of a picture, as an overlay in a PNG. Needs no torch."""

from __future__ import annotations

from rich.text import Text

from rwkvquant.cli.classify import FileArgument, ImagesArgument, bar
from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.output import JsonOption, emit, stdout
from rwkvquant.cli.pictures import OutputOption, outputs, write_picture
from rwkvquant.results import SegmentResult


def command(
    file: FileArgument,
    images: ImagesArgument,
    output: OutputOption = None,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Find the class of each pixel: writes an overlay beside each picture, and says which share each class has."""
    from rwkvquant.images import read_image
    from rwkvquant.images.draw import overlay
    from rwkvquant.runtime.session import load

    written = outputs(images, output, "segment")
    model = load(file, threads=threads, pages=pages, modality="image")
    rows = []
    for name, target in zip(images, written, strict=True):
        (result,) = model.segment(name)
        write_picture(target, overlay(read_image(name), result.labels))
        rows.append({"file": name, "output": target, **result.to_json()})
        if not as_json:
            stdout.print(f"{name} -> {target}", style="bold")
            show_shares(result)
    emit({"model": file, "images": rows}, as_json, lambda: None)


def show_shares(result: SegmentResult) -> None:
    from rwkvquant.images.draw import colour_of

    longest = max(len(share.name) for share in result.shares)
    for share in result.shares:
        red, green, blue = colour_of(share.index)
        shown = bar(share.share, f"rgb({red},{green},{blue})")
        stdout.print(Text.assemble(f"  {share.name:<{longest}}  {100 * share.share:5.1f} %  ", shown))
