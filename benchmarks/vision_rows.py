"""The rows of vision.py: which methods, with which options, and what each table is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BITS, LOW = 3.275, 2.25
PLAIN = ("rtn", "gptq", "kmeans", "gptvq")
OURS, OURS_LOW = "rwkvquant 3.275", "rwkvquant 2.25"


@dataclass(frozen=True)
class Row:
    """`nominal`: bits by the paper's count, for rows in its style; true bits are measured.

    `padded`: element-wise vectors have the bits that the options say, even where padding makes them no smaller than 16 bits. `quantize`
    keeps 16 bits there.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    nominal: float | None = None
    padded: bool = False

    @property
    def file_name(self) -> str:
        return "".join(c if c.isalnum() or c == "." else "_" for c in self.name)


def _paper_style() -> list[Row]:
    """The paper's 3.5 bits: uniform in groups of 32, and codebooks of 8 values for 64 rows."""
    uniform = {"style": "paper", "code_bits": 3, "group_size": 32}
    codebook = {"style": "paper", "code_bits": 3, "codebook_size": 64, "codebook_rank": 4}
    settings = {"rtn": uniform, "gptq": uniform, "kmeans": codebook, "gptvq": codebook}
    rows = [Row(f"{method} paper-style 3.5", {"method": method, **options}, 3.5) for method, options in settings.items()]
    return [*rows, Row("paper 3.275", {"method": "paper", "bits": BITS}, BITS)]


def _tuned(bits: float) -> list[Row]:
    return [Row(f"{method} tuned, budget {bits:g}", {"method": method, "bits": bits}) for method in PLAIN]


def _ours(name: str, padded: bool = False, **options: Any) -> Row:
    return Row(f"{OURS} {name}", {"method": "rwkvquant", "bits": BITS, **options}, padded=padded)


GROUPS: dict[str, list[Row]] = {
    "ours": [Row(OURS, {"bits": BITS})],
    "tuned-3.5": _tuned(3.5),
    "tuned": _tuned(BITS),
    "paper-style": _paper_style(),
    "low": [Row(OURS_LOW, {"bits": LOW}), *_tuned(LOW)],
    "vectors": [  # Table 7: spatial_mix_*. Our models are so narrow that 8 bits are padded to the size of 16, so OURS has 16 bits
        _ours("vectors 3 bits RTN", vector_bits=3),
        *(_ours(f"vectors 3 bits codebook, {reading}", vector_bits=3, vector_codebook=reading) for reading in ("mean_square", "paper")),
        _ours("vectors 8 bits", padded=True, vector_bits=8),
        _ours("vectors 16 bits", vector_bits=16),
    ],
    "choices": [  # SQ or VQ by each rule, then one budget for all
        _ours("only SQ", choice="uniform"),
        _ours("only VQ", choice="codebook"),
        _ours("Algorithm 1", choice="algorithm1", proxy="paper"),
    ],
}
