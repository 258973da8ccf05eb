"""What a matrix may become: which quantiser, and what it rounds to. The candidates of a recipe are such settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rwkvquant.codecs import CodecConfig, config_from_json
from rwkvquant.quantizers import quantizer_for


@dataclass(frozen=True)
class Setting:
    """`method`: the name of a quantiser for `codec`, such as rtn or gptq for grids, kmeans or gptvq for codebooks."""

    method: str
    codec: CodecConfig

    @property
    def kind(self) -> str:
        """uniform or codebook, which the papers call SQ and VQ."""
        return self.codec.kind

    @property
    def feedback(self) -> bool:
        """Whether its quantiser needs the Hessian of the input."""
        return quantizer_for(self.method, self.codec).feedback

    @property
    def drift(self) -> bool:
        """Whether its quantiser also needs to know how far that input has moved from the full-precision model's."""
        return quantizer_for(self.method, self.codec).drift

    @property
    def work(self) -> int:
        """What a weight takes besides products with the Hessian, in multiply-adds, about."""
        return quantizer_for(self.method, self.codec).work

    @property
    def plain(self) -> Setting:
        """The same grid or codebooks without error feedback: what a tensor falls back to."""
        return Setting(quantizer_for(self.method, self.codec).plain, self.codec)

    def __str__(self) -> str:
        """gptq: 3 bits, group_size 64, symmetric False, scale_bits 8"""
        rest = [f"{name} {value}" for name, value in self.codec.to_json().items() if name not in ("codec", "bits")]
        return f"{self.method}: " + ", ".join([f"{self.codec.code_bits} bits", *rest])

    def layout(self, shape: tuple[int, ...], rows: bool = False) -> str:
        return self.codec.layout(shape, rows)

    def stored_bytes(self, shape: tuple[int, ...], rows: bool = False) -> int:
        return self.codec.stored_bytes(shape, rows)

    def to_json(self) -> dict[str, Any]:
        return {"method": self.method, **self.codec.to_json()}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Setting:
        """The inverse of `to_json`. Raises KeyError without a method, ConfigError for an unknown codec."""
        return cls(fields["method"], config_from_json({key: value for key, value in fields.items() if key != "method"}))
