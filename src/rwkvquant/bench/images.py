"""The speed of a packed model for images on this machine: images a second, alone and side by side, as a share of the int8 arithmetic.

Images are random pixels in the model's own size. What they show does not change the speed. Runs are interleaved; speeds are medians of
rounds.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.bench.measure import MAX_BATCH, int8_operations_per_token, peak_rss_bytes
from rwkvquant.bench.roofline import Roofline
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import logits_hash
from rwkvquant.runtime.vision import VisionModel
from rwkvquant.runtime.weights import packed_weights

SECONDS = 0.5  # of a round, at least


def measure_images(
    file: str | Path,
    *,
    threads: int | None = None,
    pages: str = "auto",
    rounds: int = 5,
    batches: Sequence[int] = (),
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """The results as plain JSON, for a packed model for images. `pages` as in `load`.

    Raises ConfigError for rounds or batches out of range, for pages that cannot be had, and without the native module.
    """
    if rounds < 1 or not all(1 <= batch <= MAX_BATCH for batch in batches):
        raise ConfigError(f"rounds must be at least 1 and batches 1 to {MAX_BATCH}; got {rounds} and {list(batches)}")
    progress("loading")
    packed = open_packed(file, pages)
    assert packed.image is not None, "the caller knows that it is a model for images"
    model = VisionModel(packed_weights(packed), packed.image, threads)
    rows, columns = packed.image.grid
    sides = rows * packed.dims.patch, columns * packed.dims.patch
    images = np.random.default_rng(0).integers(0, 256, (max([1, *batches]), *sides, 3), dtype=np.uint8)
    features = model.features(images[:1])[0]
    peak_rss = peak_rss_bytes()
    speeds: dict[int, list[float]] = {batch: [] for batch in sorted({1, *batches})}
    multiplying = []
    with Roofline(model.threads, 1 << 20) as roofline:
        for index in range(rounds):
            progress(f"round {index + 1} of {rounds}")
            multiplying.append(roofline.multiply())
            for batch, found in speeds.items():
                found.append(_images_per_second(model, images[:batch]))
    speed, most, held = statistics.median(speeds[1]), max(multiplying), packed.contents.held()
    operations = rows * columns * int8_operations_per_token(packed)
    return {
        "file": str(file),
        "arch": model.arch,
        "images_s": speed,
        "images_s_rounds": speeds[1],
        "batch_images_s": {str(batch): statistics.median(speeds[batch]) for batch in batches},
        "image_size": list(sides),
        "patches": rows * columns,
        "operations_per_image": operations,
        "roofline_gop_s": most / 1e9,
        "roofline_share": speed * operations / most,
        "threads": model.threads,
        "backend": model.backend,
        "pages": held.pages,
        "pages_line": str(held),
        "peak_rss_bytes": peak_rss,
        "features_hash": logits_hash(features),
        "file_bytes": packed.file_bytes,
        "decoded_layouts": packed.decoded_layouts(),
        "bits_per_weight": packed.ledger().bits_per_weight,
        "rounds": rounds,
        "machine": platform.platform(),
    }


def _images_per_second(model: VisionModel, images: np.ndarray[Any, Any]) -> float:
    done, started = 0, time.perf_counter()
    while done == 0 or time.perf_counter() - started < SECONDS:
        model.features(images)
        done += len(images)
    return done / (time.perf_counter() - started)
