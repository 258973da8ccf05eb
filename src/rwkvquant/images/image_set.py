"""Sets of images with what is known about them: a folder, or an .npz.

    folder/photo.jpg ...                 no labels
    folder/CLASS/photo.jpg ...           a folder for each class, as ImageNet has them

    .npz  images (N, height, width[, 3]) uint8          or  data (bytes,) uint8, files one after another, cut at offsets (N + 1,)
          labels (N,) classes, or (N, height, width) the class of each pixel
          boxes (M, 5) left, top, right, bottom in pixels and class, with box_image (M,), the image of each

Images are decoded when they are read, so a set needs little memory, except an .npz, which is in memory whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError, ImageError
from rwkvquant.images.npz import read_arrays
from rwkvquant.images.pillow import SUFFIXES, Pixels, decode_image, read_image
from rwkvquant.images.preprocessing import Preprocessing

ARRAYS = ("images", "data", "offsets", "labels", "boxes", "box_image")


@dataclass(frozen=True)
class Batch:
    """Which images of the set, these as a model reads them, (B, height, width, 3) uint8, and their own heights and widths, (B, 2)."""

    span: slice
    pixels: Pixels
    sizes: NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """`read(index)` gives an image, (height, width, 3) uint8. Images may have different sizes.

    `labels` (N,): the class of each image, by the order of `folders`, the names of its folders, or of the model's classes where there
    are none. `masks` (N, height, width): the class of each pixel; a number that is no class means that the pixel does not count.
    `boxes`: of each image (n, 5): left, top, right, bottom, class. All are None where they are not known.
    """

    path: str
    names: tuple[str, ...]
    read: Callable[[int], Pixels]
    folders: tuple[str, ...] = ()
    labels: NDArray[np.int64] | None = None
    masks: NDArray[np.uint8] | None = None
    boxes: tuple[NDArray[np.float32], ...] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def some(self, count: int | None) -> ImageSet:
        """At most `count` images, evenly spread, since folders are sorted by class. Raises ConfigError for less than one."""
        if count is None or count >= len(self):
            return self
        if count < 1:
            raise ConfigError(f"at least 1 image must be used; got {count}")
        chosen = np.arange(count) * len(self) // count
        kept: dict[str, Any] = {"names": tuple(self.names[i] for i in chosen), "read": lambda index: self.read(int(chosen[index]))}
        kept |= {key: getattr(self, key)[chosen] for key in ("labels", "masks") if getattr(self, key) is not None}
        return replace(self, **kept, boxes=None if self.boxes is None else tuple(self.boxes[i] for i in chosen))

    def batches(self, how: Preprocessing, size: int) -> Iterator[Batch]:
        """All images, at most `size` at a time. Raises ImageError for one that is damaged."""
        if size < 1:
            raise ConfigError(f"batch must be at least 1 image; got {size}")
        for start in range(0, len(self), size):
            span = slice(start, min(start + size, len(self)))
            images = [self.read(index) for index in range(span.start, span.stop)]
            yield Batch(span, how.batch(images), np.array([image.shape[:2] for image in images]))

    def classes_of(self, names: Sequence[str], count: int) -> NDArray[np.int64] | None:
        """(N,) the number of each image's class in a model of `count` classes with these `names`, or (). None without labels.

        Folders are found by name; if the model's classes have no names, or others, by number ("7"), or by their order if there are `count`.
        Raises ImageError where none of these fits.
        """
        if self.labels is None:
            return None
        numbers = np.arange(count) if not self.folders else self._folder_numbers(names, count)
        if len(self.labels) and not 0 <= self.labels.min() <= self.labels.max() < len(numbers):
            raise ImageError(f"{self.path}: labels must be below {count}, the classes of the model; got {self.labels.max()}")
        return np.asarray(numbers)[self.labels]

    def _folder_numbers(self, names: Sequence[str], count: int) -> list[int]:
        if set(self.folders) <= set(names):
            return [list(names).index(folder) for folder in self.folders]
        if all(folder.isascii() and folder.isdecimal() and int(folder) < count for folder in self.folders):
            return [int(folder) for folder in self.folders]
        if len(self.folders) == count:
            return list(range(count))
        raise ImageError(
            f"{self.path}: a folder for each class must have the class's name or number, or there must be {count} folders in the order of "
            f"the model's classes; got {len(self.folders)}, the first is {self.folders[0]!r}"
        )

    @cached_property
    def sha256(self) -> str:
        """Of the images, decoded, with their sizes, in their order."""
        digest = hashlib.sha256()
        for index in range(len(self)):
            image = self.read(index)
            digest.update(repr(image.shape).encode())
            digest.update(image.tobytes())
        return digest.hexdigest()


def open_image_set(path: str | os.PathLike[str]) -> ImageSet:
    """A folder or an .npz. Raises ImageError if it is neither, has no images, or its arrays do not fit together."""
    name = os.fspath(path)
    if os.path.isdir(path):
        return _folder(name)
    if not os.path.exists(path):
        raise ImageError(f"{name}: there is no such file or folder")
    if not name.endswith(".npz"):
        raise ImageError(f"{name}: a set of images is a folder of images or an .npz; to use one image, give its folder")
    return image_set_of(name, read_arrays(name, ARRAYS))


def _folder(path: str) -> ImageSet:
    root = Path(path)
    files = sorted(
        Path(folder, file).relative_to(root).as_posix()
        for folder, _, inside in os.walk(root)
        for file in inside
        if file.lower().endswith(SUFFIXES) and not file.startswith(".")
    )
    if not files:
        raise ImageError(f"{path}: there is no image in this folder; names of images end with {', '.join(SUFFIXES)}")
    folders = [file.split("/")[0] if "/" in file else "" for file in files]
    classes = sorted(set(folders))
    if classes == [""]:
        return ImageSet(path, tuple(files), lambda index: read_image(root / files[index]))
    if "" in classes:
        raise ImageError(
            f"{path}: images must be all in the folder or all in its folders, one for each class; {files[folders.index('')]} is not"
        )
    labels = np.array([classes.index(folder) for folder in folders], np.int64)
    return ImageSet(path, tuple(files), lambda index: read_image(root / files[index]), tuple(classes), labels)


def image_set_of(path: str, arrays: Mapping[str, NDArray[Any]]) -> ImageSet:
    """From the arrays of an .npz; `path` is for messages. Raises ImageError as `open_image_set` does."""

    def rule(holds: bool, sentence: str) -> None:
        if not holds:
            raise ImageError(f"{path}: {sentence}")

    rule(("images" in arrays) != ("data" in arrays), "an .npz of images has either `images`, or `data` with `offsets`")
    if "images" in arrays:
        images = arrays["images"]
        valid = images.dtype == np.uint8 and (images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3)) and 0 not in images.shape
        rule(valid, f"`images` must be uint8 (count, height, width) or (count, height, width, 3); got {images.dtype} {images.shape}")
        count = len(images)

        def read(index: int) -> Pixels:
            image: Pixels = images[index]
            return np.repeat(image[..., None], 3, axis=-1) if image.ndim == 2 else image

    else:
        data, offsets = arrays["data"], arrays.get("offsets", np.zeros(0))
        rule(data.dtype == np.uint8 and data.ndim == 1, f"`data` must be uint8 (bytes,); got {data.dtype} {data.shape}")
        valid = offsets.dtype.kind in "iu" and offsets.ndim == 1 and len(offsets) > 1
        rule(
            valid, f"`offsets` must be whole numbers (count + 1,), where files in `data` begin and end; got {offsets.dtype} {offsets.shape}"
        )
        rule(
            offsets[0] >= 0 and offsets[-1] <= len(data) and bool((offsets[1:] >= offsets[:-1]).all()), "`offsets` must rise within `data`"
        )
        count = len(offsets) - 1

        def read(index: int) -> Pixels:
            return decode_image(data[int(offsets[index]) : int(offsets[index + 1])].tobytes(), f"{path}, image {index}")

    whole: dict[str, Any] = {}
    if (labels := arrays.get("labels")) is not None:
        valid = labels.dtype.kind in "iu" and labels.ndim in (1, 3) and len(labels) == count
        rule(valid, f"`labels` must be whole numbers ({count},) or ({count}, height, width); got {labels.dtype} {labels.shape}")
        rule(labels.ndim == 1 or labels.dtype == np.uint8, f"labels of pixels must be uint8; got {labels.dtype}")
        whole = {"labels": labels.astype(np.int64)} if labels.ndim == 1 else {"masks": labels}
    if (boxes := arrays.get("boxes")) is not None:
        of_image = arrays.get("box_image", np.zeros(0))
        valid = boxes.dtype.kind == "f" and boxes.ndim == 2 and boxes.shape[1] == 5 and bool(np.isfinite(boxes).all())
        rule(valid, f"`boxes` must be finite numbers (boxes, 5): left, top, right, bottom, class; got {boxes.dtype} {boxes.shape}")
        valid = of_image.dtype.kind in "iu" and of_image.shape == (len(boxes),)
        rule(valid, f"`box_image` must be whole numbers ({len(boxes)},); got {of_image.dtype} {of_image.shape}")
        rule(not len(boxes) or 0 <= of_image.min() <= of_image.max() < count, f"`box_image` must be below {count}, the number of images")
        whole["boxes"] = tuple(boxes[of_image == index].astype(np.float32) for index in range(count))
    return ImageSet(path, tuple(map(str, range(count))), read, **whole)
