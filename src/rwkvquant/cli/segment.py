"""rwkvquant segment: the class of each pixel of a picture, as an overlay in a PNG. Needs no torch."""

from __future__ import annotations

from rich.text import Text

from rwkvquant.cli.classify import FileArgument, ImagesArgument, bar
from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.output import JsonOption, stdout
from rwkvquant.cli.pictures import OutputOption, Pixels, draw_each, outputs
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
    from rwkvquant.images.draw import overlay
    from rwkvquant.runtime.session import load

    written = outputs(images, output, "segment")
    model = load(file, threads=threads, pages=pages, modality="image")

    def draw(pixels: Pixels, found: SegmentResult) -> Pixels:
        return overlay(pixels, found.labels)

    draw_each(file, images, written, lambda image: model.segment(image)[0], draw, show_shares, as_json)


def show_shares(result: SegmentResult) -> None:
    from rwkvquant.images.draw import colour_of

    longest = max(len(share.name) for share in result.shares)
    for share in result.shares:
        red, green, blue = colour_of(share.index)
        shown = bar(share.share, f"rgb({red},{green},{blue})")
        stdout.print(Text.assemble(f"  {share.name:<{longest}}  {100 * share.share:5.1f} %  ", shown))
