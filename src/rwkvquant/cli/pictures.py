"""The pictures of `segment` and `detect`: where they are written, and the loop over images that both have."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np
import typer
from numpy.typing import NDArray

from rwkvquant.cli.output import emit, stdout
from rwkvquant.errors import ConfigError
from rwkvquant.results import DetectResult, SegmentResult

Found = TypeVar("Found", SegmentResult, DetectResult)
Pixels = NDArray[np.uint8]

OutputOption = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PNG|FOLDER",
        help="For one image the name of the picture, ending in .png; otherwise a folder. Default: beside each image, as NAME.COMMAND.png.",
    ),
]


def outputs(images: Sequence[str], output: str | None, command: str) -> list[str]:
    """The name of each image's picture. Raises ConfigError if two of them would have one name, or a picture that of an image."""
    if output is not None and output.endswith(".png") and not os.path.isdir(output):
        if len(images) != 1:
            raise ConfigError(f"--output must be a folder for several images; got {output} for {len(images)}")
        names = [output]
    else:
        names = [str(_beside(Path(image), output, command)) for image in images]
    places = [os.path.realpath(name) for name in names]
    for name, place in zip(names, places, strict=True):
        if place in {os.path.realpath(image) for image in images}:
            raise ConfigError(f"the picture would replace the image {name}; give another name with --output")
        if places.count(place) > 1:
            raise ConfigError(f"two images would have the same picture, {name}; use one call for each")
    return names


def _beside(image: Path, folder: str | None, command: str) -> Path:
    return (image.parent if folder is None else Path(folder)) / f"{image.stem}.{command}.png"


def draw_each(
    file: str,
    images: Sequence[str],
    written: Sequence[str],
    find: Callable[[str], Found],
    draw: Callable[[Pixels, Found], Pixels],
    show: Callable[[Found], None],
    as_json: bool,
) -> None:
    """Of each image: find something in it, draw that into its pixels, write the picture, and show what was found. `file` is the model."""
    from rwkvquant.images import read_image

    rows = []
    for name, target in zip(images, written, strict=True):
        found = find(name)
        write_picture(target, draw(read_image(name), found))
        rows.append({"file": name, "output": target, **found.to_json()})
        if not as_json:
            stdout.print(f"{name} -> {target}", style="bold")
            show(found)
    emit({"model": file, "images": rows}, as_json, lambda: None)


def write_picture(path: str, pixels: Pixels) -> None:
    """The folder is made if it is missing. Raises RwkvQuantError or OSError if the disk refuses."""
    from rwkvquant.formats.disk import atomic_write
    from rwkvquant.images import png_bytes

    data = png_bytes(pixels)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(Path(path), advice="make room and run the command again") as file:
        file.write(data)
