"""What a matrix may become: which quantiser, and what it rounds to. A recipe's candidates are such settings.

`uniform` and `codebook` are the papers' SQ and VQ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rwkvquant.codecs import CodecConfig, config_from_json
from rwkvquant.quantizers import quantizer_for


@dataclass(frozen=True)
class Setting:
    """`method` rtn | gptq for a GridConfig, kmeans | gptvq for the others."""

    method: str
    codec: CodecConfig

    @property
    def kind(self) -> str:
        """uniform | codebook: the papers' SQ | VQ."""
        return self.codec.kind

    @property
    def feedback(self) -> bool:
        """Whether it needs the Hessian of the input to choose codes."""
        return quantizer_for(self.method, self.codec).feedback

    @property
    def plain(self) -> Setting:
        """The same grid or codebooks without error feedback: what a tensor falls back to."""
        return Setting(quantizer_for(self.method, self.codec).plain, self.codec)

    def __str__(self) -> str:
        """gptq: 3 bits, group_size 64, symmetric False, scale_bits 8"""
        found = self.codec.to_json()
        rest = [f"{name} {value}" for name, value in found.items() if name not in ("codec", "bits")]
        return f"{self.method}: " + ", ".join([f"{self.codec.code_bits} bits", *rest])

    def layout(self, shape: tuple[int, ...], rows: bool = False) -> str:
        return self.codec.layout(shape, rows)

    def stored_bytes(self, shape: tuple[int, ...], rows: bool = False) -> int:
        return self.codec.stored_bytes(shape, rows)

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, **self.codec.to_json()}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Setting:
        """The way back from `to_json`. Raises KeyError without a method, ConfigError for a codec that is not known."""
        return cls(found["method"], config_from_json({key: value for key, value in found.items() if key != "method"}))
