"""rwkvquant activations: how the values that a tensor is multiplied with are distributed (RWKVQuant's Figure 4)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.cli.evaluate import AdapterOption, TokenizerOption
from rwkvquant.cli.histogram import histogram
from rwkvquant.cli.output import JsonOption, emit, stdout
from rwkvquant.errors import ConfigError
from rwkvquant.evaluation.activations import find_meeting, met, tokens_of

if TYPE_CHECKING:  # it imports torch
    from rwkvquant.calibration.activations import Distribution
    from rwkvquant.models import Stages

FIGURES = (".svg", ".png")


def command(
    checkpoint: Annotated[str, typer.Argument(help="A checkpoint of RWKV-6 (x060), RWKV-7 (x070) or Vision-RWKV.")],
    tensor: Annotated[str, typer.Argument(help="A matrix or element-wise vector, by name or by a pattern as in --tensor-bits.")],
    text: Annotated[str | None, typer.Option(help="Text to read. Default: the calibration text in the package.")] = None,
    images: Annotated[str | None, typer.Option(help="For Vision-RWKV: the images to read, as a folder or an .npz.")] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of text, or images.")] = 8,
    length: Annotated[int, typer.Option(min=1, help="Tokens in a row of text.")] = 512,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Also write a figure, .svg or .png; needs matplotlib.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how the values that a tensor is multiplied with are distributed, next to a normal distribution."""
    if output is not None:
        _check_figure(output)
    opened = open_checkpoint(checkpoint, adapter or "")
    meeting = find_meeting(opened, tensor)
    if opened.image and (images is None or text or tokenizer):
        raise ConfigError(f"{checkpoint}: {opened.architecture.title} reads images: give --images, and neither --text nor --tokenizer")
    if images and not opened.image:
        raise ConfigError(f"{checkpoint}: {opened.architecture.title} is a text model; give --text, not --images")

    read, stages = _images(opened, images, rows) if images else (tokens_of(opened, text, tokenizer, rows, length), None)
    measured, told = met(opened, meeting, read, stages)
    if output is not None:
        from rwkvquant.lab.distribution import save_figure

        save_figure(told, f"{meeting.tensor} meets {meeting.activation}", output)
    result = {"file": checkpoint, **told}
    emit(result, as_json, lambda: _show(result, measured))


def _images(checkpoint: Checkpoint, images: str, count: int) -> tuple[NDArray[np.float32], Stages]:
    from rwkvquant.calibration.images import calibration_images
    from rwkvquant.models import ImageStages

    read = calibration_images(images, checkpoint, count)
    return read, ImageStages.of(checkpoint, *read.shape[2:])


def _check_figure(output: str) -> None:
    """Raises ConfigError before the work for a figure that could not be written after it."""
    if Path(output).suffix not in FIGURES:
        raise ConfigError(f"a figure must be {' or '.join(FIGURES)}; got {output}")
    if not Path(output).absolute().parent.is_dir():
        raise ConfigError(f"the folder of the figure must exist; {Path(output).parent} does not ({output})")
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        raise ConfigError("-o draws with matplotlib; install it with: pip install 'rwkv-hybridquant[plot]'") from None


def _show(result: dict[str, Any], found: Distribution) -> None:
    part = {"input": "the input of", "partner": "multiplied element by element with"}[result["meets"]]
    stdout.print(
        f"{result['activation']}, {part} {result['tensor']}: {result['rows']} rows of {result['length']} tokens of {result['width']}"
    )
    stdout.print()
    for line in histogram(found, ascii_only=stdout.options.ascii_only):
        stdout.print(line)
    clip = result["clip"]
    kurtosis = "" if result["kurtosis"] is None else f", kurtosis {result['kurtosis']:.2f} (normal: 3)"
    stdout.print()
    stdout.print(f"mean {found.mean:.4g}, standard deviation {found.std:.4g}{kurtosis}, zeros {100 * found.zeros:.2f} %")
    stdout.print("percentiles  " + "  ".join(f"{p} %: {value:.4g}" for p, value in result["percentiles"].items()))
    stdout.print(
        f"the {clip['percentile']:g} % clip of --vector-codebook paper is at {clip['low']:.4g} and {clip['high']:.4g} "
        f"and changes {100 * clip['share']:.2f} % of the values"
    )
    largest = ", ".join(f"{entry['channel']} ({100 * entry['share']:.1f} %)" for entry in result["channels"])
    stdout.print(f"channels by their share of the sum of squares (even: {100 / result['width']:.2g} %): {largest}")
