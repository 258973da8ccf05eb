"""Images and sets of images, made by Pillow and NumPy."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def random_image(height: int = 12, width: int = 16, seed: int = 0) -> np.ndarray:
    """Smooth enough that JPEG keeps it: (height, width, 3) uint8."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(random.uniform(0.02, 0.15, 2) @ np.stack([y, x]).reshape(2, -1) + random.uniform(0, 6)) for _ in range(3)]
    return (127.5 + 120 * np.stack(waves, -1)).reshape(height, width, 3).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def write_npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def in_one_array(files: list[bytes]) -> dict[str, np.ndarray]:
    """`data` and `offsets` of an .npz."""
    return {"data": np.frombuffer(b"".join(files), np.uint8), "offsets": np.cumsum([0, *map(len, files)])}
