"""Draw what a model for images says before and after it is quantised, side by side: the input, 16 bits, 3.275 bits.

    python benchmarks/draw_vision.py                                                        # docs/vision_classes.png, of the demo model
    python benchmarks/draw_vision.py MODEL.pth PACKED.safetensors SET OUT.png [--images 3 17] [--without-input]

The head decides what is drawn: probabilities of classes, the class of each pixel, or boxes. `--images` are numbers in the set.
`--without-input` leaves the photographs out, where their licence is not known.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rwkvquant import CalibrationConfig, QuantizeRequest, quantize
from rwkvquant.evaluation.images.load import load_image_model
from rwkvquant.images import open_image_set, preprocessing_for
from rwkvquant.kernels.boxes import find_boxes
from rwkvquant.models import ImageModel

ROOT = Path(__file__).resolve().parents[1]
DEMO = ROOT / "demo" / "vrwkv-fashion"
SHOWN_SCORE = 0.3  # of boxes
WIDTH, HEIGHT = 2.3, 1.9  # inches of one picture
Pixels = NDArray[np.uint8]


def draw_classes(axes: Axes, model: ImageModel, image: Pixels) -> None:
    """The four likeliest classes as bars."""
    p = model.classify(image[None]).double().softmax(1)[0].numpy()
    best = np.argsort(-p, kind="stable")[:4]
    axes.barh(range(4), p[best], color=["#3b6fb6", "#b9c9de", "#b9c9de", "#b9c9de"], height=0.6)
    for place, kind in enumerate(best):
        axes.text(0.02, place - 0.43, f"{name_of(model, kind)}  {100 * p[kind]:.1f} %", fontsize=7, va="center")
    axes.set_xlim(0, 1)
    axes.set_ylim(3.6, -0.8)
    axes.axis("off")


def draw_pixels(axes: Axes, model: ImageModel, image: Pixels) -> None:
    """A colour for each class."""
    chosen = model.segment(image[None]).argmax(1)[0].numpy()
    axes.imshow(chosen, cmap=matplotlib.colormaps["tab20"], vmin=0, vmax=19, interpolation="nearest")
    axes.axis("off")


def draw_boxes(axes: Axes, model: ImageModel, image: Pixels) -> None:
    classes, sides, centre = (output[0].numpy() for output in model.detect(image[None]))
    boxes = find_boxes(classes, sides, centre, model.dims.patch, *image.shape[:2], min_score=SHOWN_SCORE)
    axes.imshow(image)
    for (left, top, right, bottom), kind in zip(boxes.corners, boxes.classes, strict=True):
        colour = matplotlib.colormaps["tab10"](int(kind))
        axes.add_patch(matplotlib.patches.Rectangle((left, top), right - left, bottom - top, fill=False, lw=1, color=colour))
    for kind in sorted({int(kind) for kind in boxes.classes}):
        axes.plot([], [], color=matplotlib.colormaps["tab10"](kind), label=name_of(model, kind))
    if len(boxes.classes):
        axes.legend(loc="lower right", fontsize=5, handlelength=1)
    axes.axis("off")


DRAW = {"classify": draw_classes, "segment": draw_pixels, "detect": draw_boxes}


def name_of(model: ImageModel, kind: int) -> str:
    return model.settings.classes[kind] if model.settings.classes else str(kind)


def draw(checkpoint: str, packed: str, images: str, chosen: list[int], output: Path, without_input: bool = False) -> None:
    models = {"16 bits": load_image_model(checkpoint), "3.275 bits": load_image_model(packed)}
    base, pictures = models["16 bits"], open_image_set(images)
    how = preprocessing_for(base.settings, base.dims.patch, base.task)
    columns: list[Any] = [*([] if without_input else ["input"]), *models]
    figure = Figure(figsize=(WIDTH * len(columns), HEIGHT * len(chosen) + 0.3))
    grid = figure.subplots(len(chosen), len(columns), squeeze=False)
    for row, index in zip(grid, chosen, strict=True):
        image = how.fit(pictures.read(index))
        for axes, column in zip(row, columns, strict=True):
            if column == "input":
                axes.imshow(image, interpolation="nearest")
                axes.axis("off")
            else:
                DRAW[str(base.task)](axes, models[column], image)
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, fontsize=9)
    figure.tight_layout(pad=0.4)
    figure.savefig(output, dpi=110, metadata={"Software": None})


def draw_demo() -> None:
    """The demo model, quantised here; the first image of four classes."""
    checkpoint, images = str(DEMO / "vrwkv-fashion.pth"), str(DEMO / "images")
    with tempfile.TemporaryDirectory() as scratch:
        packed = f"{scratch}/model.safetensors"
        quantize(checkpoint, packed, QuantizeRequest(calibration=CalibrationConfig(path=str(DEMO / "calib.npz"))))
        draw(checkpoint, packed, images, [12, 36, 42, 48], ROOT / "docs" / "vision_classes.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="MODEL.pth PACKED.safetensors SET OUT.png")
    parser.add_argument("--images", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--without-input", action="store_true")
    args = parser.parse_args()
    if not args.files:
        draw_demo()
    elif len(args.files) == 4:
        checkpoint, packed, images, output = args.files
        draw(checkpoint, packed, images, args.images, Path(output), args.without_input)
    else:
        parser.error("give no file, or four: MODEL.pth PACKED.safetensors SET OUT.png")


if __name__ == "__main__":
    main()
