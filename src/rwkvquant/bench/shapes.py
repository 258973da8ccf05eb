"""The sizes of released models, so that their speed can be tried before they are downloaded."""

from __future__ import annotations

from rwkvquant.errors import ConfigError
from rwkvquant.kernels.state import Dims

VOCAB, HEAD_SIZE = 65536, 64


def _rwkv7(layers: int, width: int, ranks: tuple[int, int, int, int]) -> Dims:
    return Dims(layers, width, 4 * width, VOCAB, width // HEAD_SIZE, HEAD_SIZE, dict(zip(("Rw", "Ra", "Rv", "Rg"), ranks, strict=True)))


def _rwkv6(layers: int, width: int, mix: int, decay: int) -> Dims:
    return Dims(layers, width, width * 7 // 2, VOCAB, width // HEAD_SIZE, HEAD_SIZE, {"Rm": mix, "Rd": decay})


RELEASED: dict[str, tuple[str, Dims]] = {
    "x070-0.1b": ("rwkv7", _rwkv7(12, 768, (64, 64, 32, 128))),
    "x070-0.4b": ("rwkv7", _rwkv7(24, 1024, (64, 64, 32, 128))),
    "x070-1.5b": ("rwkv7", _rwkv7(24, 2048, (96, 96, 64, 256))),
    "x070-2.9b": ("rwkv7", _rwkv7(32, 2560, (96, 96, 64, 320))),
    "x070-7.2b": ("rwkv7", _rwkv7(32, 4096, (128, 128, 96, 480))),
    "x060-1.6b": ("rwkv6", _rwkv6(24, 2048, 32, 64)),
    "x060-3b": ("rwkv6", _rwkv6(32, 2560, 32, 64)),
    "x060-7b": ("rwkv6", _rwkv6(32, 4096, 64, 128)),
    "x060-14b": ("rwkv6", _rwkv6(61, 4096, 64, 128)),
}


def released(name: str) -> tuple[str, Dims]:
    """("rwkv7" | "rwkv6", sizes). Raises ConfigError for a name that is not in RELEASED."""
    if name not in RELEASED:
        raise ConfigError(f"released shapes are {', '.join(RELEASED)}; got {name}")
    return RELEASED[name]
