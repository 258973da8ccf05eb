"""rwkvquant activations: how the values that a tensor is multiplied with are distributed (RWKVQuant's Figure 4)."""

from __future__ import annotations

import importlib.resources
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from rwkvquant.architectures import Role, TensorSpec
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.cli.evaluate import AdapterOption, TokenizerOption
from rwkvquant.cli.histogram import histogram
from rwkvquant.cli.output import JsonOption, emit, stdout
from rwkvquant.errors import ConfigError

if TYPE_CHECKING:  # it imports torch
    from rwkvquant.calibration.activations import Distribution
    from rwkvquant.models import Stages

CHANNELS = 8  # so many of the largest are shown
FIGURES = (".svg", ".png")
SHOWN_MATCHES = 3


@dataclass(frozen=True)
class Meeting:
    """A tensor and the activation that it is multiplied with, as architectures/ names it; `index`: which slice of both."""

    tensor: str
    spec: TensorSpec
    layer: int | None
    index: int | None = None

    @property
    def activation(self) -> str:
        name = self.spec.input or self.spec.partner
        assert name is not None
        return name


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
    met = find_meeting(opened, tensor)
    if opened.image and (images is None or text or tokenizer):
        raise ConfigError(f"{checkpoint}: {opened.architecture.title} reads images: give --images, and neither --text nor --tokenizer")
    if images and not opened.image:
        raise ConfigError(f"{checkpoint}: {opened.architecture.title} is a text model; give --text, not --images")

    from rwkvquant.calibration.activations import collect_activation, distribution
    from rwkvquant.calibration.statistics.importance import PERCENTILE
    from rwkvquant.models import CheckpointSource

    read, stages = _images(opened, images, rows) if images else (_tokens(opened, text, tokenizer, rows, length), None)
    X = collect_activation(CheckpointSource(opened), read, met.layer, met.activation, met.index, stages=stages)
    measured = distribution(X, PERCENTILE)
    if output is not None:
        from rwkvquant.cli.figure import save_figure

        save_figure(measured, f"{met.tensor} meets {met.activation}", PERCENTILE, output)
    result = {"file": checkpoint, **_described(met, X.shape), **to_json(measured, PERCENTILE)}
    emit(result, as_json, lambda: _show(result, measured))


def _tokens(checkpoint: Checkpoint, text: str | None, tokenizer: str | None, rows: int, length: int) -> NDArray[np.int64]:
    from rwkvquant.calibration.samples import calibration_rows, load_documents
    from rwkvquant.runtime.tokenizer import load_tokenizer

    documents = load_documents(text or str(importlib.resources.files("rwkvquant") / "assets" / "calibration.txt"))
    chosen = load_tokenizer(tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    return calibration_rows(documents, chosen, rows, length, option="--length")


def _images(checkpoint: Checkpoint, images: str, count: int) -> tuple[NDArray[np.float32], Stages]:
    from rwkvquant.calibration.images import calibration_images
    from rwkvquant.models import ImageStages

    read = calibration_images(images, checkpoint, count)
    return read, ImageStages.of(checkpoint, *read.shape[2:])


def find_meeting(checkpoint: Checkpoint, pattern: str) -> Meeting:
    """The one tensor that has this name, or whose name matches the pattern. Raises ConfigError for none, and for several."""
    from rwkvquant.selection.policy import matching_names, near_names

    meetings = {}
    for name, spec, layer in checkpoint.specs():
        if spec.role is not Role.EMBEDDING and (spec.input is not None or spec.partner is not None):
            slices = range(checkpoint.tensors[name].shape[0]) if spec.slices else [None]
            for index in slices:
                tensor = name if index is None else f"{name}.{index}"
                meetings[tensor] = Meeting(tensor, spec, layer, index)
    if pattern in meetings:
        return meetings[pattern]
    matched = matching_names(pattern, list(meetings))
    if len(matched) == 1:
        return meetings[matched[0]]
    if matched:
        more = ", ..." if len(matched) > SHOWN_MATCHES else ""
        raise ConfigError(f"{pattern!r} matches {len(matched)} names, {', '.join(matched[:SHOWN_MATCHES])}{more}; give one of them")
    raise ConfigError(
        f"{checkpoint.path}: no name of a matrix or element-wise vector matches {pattern!r} (norms, biases and the embedding are "
        f"not multiplied with an activation that can be shown). {near_names(pattern, list(meetings))}"
    )


def to_json(found: Distribution, clip_percentile: float) -> dict[str, Any]:
    """docs/methods/elementwise.md explains the keys."""
    total = float(found.mean_square.sum())
    return {
        "values": found.count,
        "mean": found.mean,
        "std": found.std,
        "min": found.low,
        "max": found.high,
        "zeros": found.zeros,
        "kurtosis": None if math.isnan(found.kurtosis) else found.kurtosis,
        "percentiles": {f"{p:g}": value for p, value in found.percentiles.items()},
        "clip": {"percentile": clip_percentile, "low": found.clip_low, "high": found.clip_high, "share": found.clip_share},
        "histogram": {"edges": found.edges.tolist(), "counts": found.counts.tolist(), "normal": found.normal.tolist()},
        "channels": [
            {"channel": c, "mean_square": float(found.mean_square[c]), "share": float(found.mean_square[c]) / total if total else 0.0}
            for c in found.largest_channels(CHANNELS)
        ],
    }


def _described(met: Meeting, shape: tuple[int, ...]) -> dict[str, Any]:
    rows, length, width = shape
    meets = "input" if met.spec.input else "partner"
    return {"tensor": met.tensor, "activation": met.activation, "meets": meets, "rows": rows, "length": length, "width": width}


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
