"""What a matrix may become: which quantiser, and what it rounds to. A recipe's candidates are such settings.

`uniform` and `codebook` are the papers' SQ and VQ.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from rwkvquant.codecs import CodebookConfig, Codec, GridConfig, PairConfig
from rwkvquant.formats.layout import choose_layout, stored_bytes, stored_bytes_codebook, stored_bytes_pairs

CODECS = {"uniform": GridConfig, "codebook": CodebookConfig, "pairs": PairConfig}
QUANTISERS = {"uniform": ("rtn", "gptq"), "codebook": ("kmeans", "gptvq")}  # without and with error feedback


@dataclass(frozen=True)
class Setting:
    """`method` rtn | gptq for a GridConfig, kmeans | gptvq for the others."""

    method: str
    codec: Codec

    @property
    def kind(self) -> str:
        """uniform | codebook: the papers' SQ | VQ."""
        return "uniform" if isinstance(self.codec, GridConfig) else "codebook"

    @property
    def feedback(self) -> bool:
        """Whether it needs the Hessian of the input to choose codes."""
        return self.method in ("gptq", "gptvq")

    @property
    def plain(self) -> Setting:
        """The same grid or codebooks without error feedback: what a tensor falls back to."""
        return Setting(QUANTISERS[self.kind][0], self.codec)

    def layout(self, shape: tuple[int, ...], rows: bool = False) -> str:
        codec = self.codec
        if isinstance(codec, GridConfig):
            return choose_layout("uniform", codec.bits, shape, codec.group_size, rows)
        return choose_layout("pairs" if isinstance(codec, PairConfig) else "codebook", codec.bits, shape, rows_layout=rows)

    def stored_bytes(self, shape: tuple[int, ...], rows: bool = False) -> int:
        codec = self.codec
        if isinstance(codec, GridConfig):
            return stored_bytes(codec, shape, rows)
        if isinstance(codec, PairConfig):
            return stored_bytes_pairs(shape, codec.bits, codec.group_rows)
        return stored_bytes_codebook(shape, codec.bits, codec.group_rows, codec.rank, rows)

    def to_json(self) -> dict[str, Any]:
        name = next(name for name, kind in CODECS.items() if isinstance(self.codec, kind))
        return {"method": self.method, "codec": name, **dataclasses.asdict(self.codec)}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Setting:
        options = {key: value for key, value in found.items() if key not in ("method", "codec")}
        return cls(found["method"], CODECS[found["codec"]](**options))


def code_bits_of(codec: Codec) -> int:
    """Bits of a code per weight, which is what --tensor-bits names."""
    return codec.bits // 2 if isinstance(codec, PairConfig) else codec.bits
