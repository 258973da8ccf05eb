"""How well models for images do on packed test sets, in torch, as a table and as JSON.

    python benchmarks/vision.py MODEL.pth TEST.npz [MODEL.pth TEST.npz ...] --json OUT.json

The head decides what is measured: top-1 of classes, mIoU of segmentation (labels that are no class are left out), AP50 of boxes (area
under the interpolated precision-recall curve, mean of the classes). A test set has `images` uint8 (n, height, width[, 3]), or JPEG files
one after another in `data`, cut at `offsets`; and `labels`, or `boxes` (m, 5) with corners and class, and `box_image` (m,), the image
of each.
`same_as_definition`: the largest difference of features between torch and the NumPy definition in float64, as a share of the largest.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import platform
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from rwkvquant import __version__
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.kernels import vrwkv
from rwkvquant.kernels.boxes import Boxes, find_boxes, overlap
from rwkvquant.kernels.images import normalized
from rwkvquant.models import ImageModel

BATCH = 16


def images_of(test: Any) -> NDArray[np.uint8]:
    if "images" in test:
        return test["images"]
    data, offsets = test["data"].tobytes(), test["offsets"]
    files = [data[start:stop] for start, stop in pairwise(offsets)]
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def top1(model: ImageModel, images: NDArray[np.uint8], test: Any) -> dict[str, Any]:
    chosen = torch.cat([model.classify(part).argmax(1) for part in parts(images)]).numpy()
    right = int((chosen == test["labels"]).sum())
    return {"right": right, "images": len(images), "top1": right / len(images)}


def mean_iou(model: ImageModel, images: NDArray[np.uint8], test: Any) -> dict[str, Any]:
    chosen = torch.cat([model.segment(part).argmax(1) for part in parts(images)]).numpy()
    labels, classes = test["labels"], model.dims.classes
    counted = labels < classes
    pairs = np.bincount(labels[counted].astype(int) * classes + chosen[counted], minlength=classes**2).reshape(classes, classes)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    iou = pairs.diagonal() / np.maximum(union, 1)
    return {"miou": float(iou[union > 0].mean()), "pixel_accuracy": float(pairs.trace() / pairs.sum()), "iou": iou.round(4).tolist()}


def ap50(model: ImageModel, images: NDArray[np.uint8], test: Any) -> dict[str, Any]:
    found: list[Boxes] = []
    for part in parts(images):
        outputs = zip(*(output.numpy() for output in model.detect(part)), strict=True)
        found += [find_boxes(*of_image, model.dims.patch, *images.shape[1:3]) for of_image in outputs]
    truth = [test["boxes"][test["box_image"] == image] for image in range(len(images))]
    of_class = [average_precision(kind, found, truth) for kind in range(model.dims.classes)]
    return {"ap50": float(np.mean(of_class)), "ap50_of_class": [round(value, 4) for value in of_class]}


def average_precision(kind: int, found: list[Boxes], truth: list[NDArray[np.float32]]) -> float:
    """Best boxes first, each takes the true box that it overlaps most, if by half or more, and if no better box has it."""
    ranked = sorted(
        ((float(b.scores[i]), image, b.corners[i]) for image, b in enumerate(found) for i in np.flatnonzero(b.classes == kind)),
        key=lambda box: -box[0],
    )
    real = [boxes[boxes[:, 4] == kind, :4] for boxes in truth]
    taken = [np.zeros(len(boxes), bool) for boxes in real]
    hits = np.zeros(len(ranked))
    for rank, (_, image, corners) in enumerate(ranked):
        if len(real[image]):
            shares = overlap(corners, real[image])
            best = int(shares.argmax())
            if shares[best] >= 0.5 and not taken[image][best]:
                taken[image][best], hits[rank] = True, 1
    recall = np.concatenate([[0], hits.cumsum() / max(1, sum(map(len, real))), [1]])
    precision = np.concatenate([[0], hits.cumsum() / np.arange(1, len(hits) + 1), [0]])
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float((np.diff(recall) * envelope[1:]).sum())


MEASURES = {"classify": top1, "segment": mean_iou, "detect": ap50}


def parts(images: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    return [images[start : start + BATCH] for start in range(0, len(images), BATCH)]


def difference_from_definition(model: ImageModel, path: str, images: NDArray[np.uint8]) -> float:
    checkpoint = open_checkpoint(path)
    weights = {}
    for name, spec, _ in checkpoint.specs():
        weights[name] = checkpoint.read(name).reshape(spec.forward_shape(checkpoint.dims)).astype(np.float64)
    pixels = normalized(images, model.settings.mean, model.settings.std).astype(np.float64)
    expected = vrwkv.features(weights, pixels, model.dims.patch, model.settings.grid, model.settings.post_norm)
    return float(np.abs(model.features(images).numpy() - expected).max() / np.abs(expected).max())


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def measure(path: str, test_path: str) -> dict[str, Any]:
    model, test = ImageModel.of(open_checkpoint(path)), np.load(test_path)
    images = images_of(test)
    start = time.perf_counter()
    result = {"model": Path(path).name, "test": Path(test_path).name, "task": model.task, **MEASURES[str(model.task)](model, images, test)}
    seconds = time.perf_counter() - start
    result |= {"seconds": round(seconds, 1), "same_as_definition": difference_from_definition(model, path, images[:4])}
    result |= {"model_sha256": digest(path), "test_sha256": digest(test_path)}
    print(json.dumps({key: value for key, value in result.items() if "sha256" not in key}), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", help="MODEL.pth TEST.npz, in pairs")
    parser.add_argument("--json", default=None)
    args = parser.parse_args()
    if len(args.files) % 2:
        parser.error("files come in pairs: MODEL.pth TEST.npz")
    torch.set_num_threads(1)
    rows = [measure(*pair) for pair in zip(args.files[::2], args.files[1::2], strict=True)]
    conditions = {"threads": 1, "rwkvquant": __version__, "machine": platform.machine()}
    conditions |= {"torch": torch.__version__, "numpy": np.__version__}
    if args.json:
        Path(args.json).write_text(json.dumps({"conditions": conditions, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
