"""What every engine for images does: it gives a vector for each patch, and multiplies with the matrices of the heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError

Array = NDArray[np.float32]


class ImageEngine(Protocol):
    """The native engine gives the same bits for any number of threads and of images. An image has at most MAX_PATCHES patches.

    `weights`: what the functions of kernels/ take, by the checkpoint's names; a matrix there may be anything that `x @ W.T` works with.
    """

    @property
    def name(self) -> str:
        """ "avx512", "neon", "reference", ..."""
        ...

    @property
    def threads(self) -> int: ...

    @property
    def weights(self) -> Mapping[str, Any]: ...

    def features(self, pixels: Array) -> Array:
        """Normalised images (B, I, height, width) of any size -> (B, C, rows, columns), a vector for each patch.

        Raises FormatError if the file with the weights became shorter since it was opened.
        """
        ...


@dataclass(frozen=True)
class Forward:
    """Functions of kernels/<architecture>.py: vrwkv.py says what each takes and gives."""

    features: Callable[..., Array]
    embed: Callable[..., tuple[Array, tuple[int, int]]]
    classify: Callable[..., Array]
    segment: Callable[..., Array]
    detect: Callable[..., tuple[Array, Array, Array]]


def forward_of(arch: str) -> Forward:
    """Raises ConfigError for an architecture that reads no images."""
    module = import_module(f"rwkvquant.kernels.{arch}")
    if not hasattr(module, "features"):
        raise ConfigError(f"models of {arch} read no images: kernels/{arch}.py has no features")
    return Forward(module.features, module.embed, module.classify, module.segment, module.detect)
