"""The rows of quality.py: which methods, with which options, and what each table is about."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

BITS = 3.275
OURS = "rwkvquant 3.275"


@dataclass(frozen=True)
class Row:
    """`nominal`: bits by the paper's count, for rows in its style; true bits are measured."""

    name: str
    group: str
    options: dict[str, Any] = field(default_factory=dict)
    nominal: float | None = None
    lambada: bool = False


def _paper(method: str, nominal: float, **options: Any) -> Row:
    return Row(f"{method} paper-style {nominal:g}", "paper-style", {"method": method, "style": "paper", **options}, nominal)


def _paper_style() -> list[Row]:
    """Plain rows take the nearest setting that is not below the nominal bits. 3.275 has the setting of 3.25, with true bits above both."""
    rows = []
    for method in ("rtn", "gptq"):
        rows += [_paper(method, 3.25, code_bits=3, group_size=64), _paper(method, 3.5, code_bits=3, group_size=32)]
    for method in ("kmeans", "gptvq"):
        rows += [
            _paper(method, 3.25, code_bits=3, codebook_size=128, codebook_rank=4),
            _paper(method, 3.5, code_bits=3, codebook_size=64, codebook_rank=4),
        ]
    rows += [
        Row(f"paper {bits:g}", "paper-style", {"method": "paper", "bits": bits}, bits, lambada=bits == BITS) for bits in (3.25, BITS, 3.5)
    ]
    return [*rows, Row("readme", "paper-style", {"method": "readme"})]


def _tuned() -> list[Row]:
    """Under 3.275 true bits: one plain setting for all, and a budget spread by rounding errors."""
    rows = [
        Row(f"{method} tuned, budget 3.275", "tuned", {"method": method, "bits": BITS}) for method in ("rtn", "gptq", "kmeans", "gptvq")
    ]
    for method in ("rtn", "gptq"):
        options = {"method": method, "code_bits": 3, "group_size": 64}
        rows.append(Row(f"{method} tuned, 3 bits g64", "tuned", options, lambada=method == "gptq"))
    for method in ("kmeans", "gptvq"):
        rows.append(Row(f"{method} tuned, 3 bits 512", "tuned", {"method": method, "code_bits": 3, "codebook_size": 512}))
    rows.append(Row("gptvq tuned, 3 bits pairs", "tuned", {"method": "gptvq", "code_bits": 3, "codebook_dim": 2}))
    return rows + [Row(f"{method} tuned, budget 3.5", "tuned", {"method": method, "bits": 3.5}) for method in ("gptq", "gptvq")]


def _ours(name: str, group: str, **options: Any) -> Row:
    return Row(f"rwkvquant 3.275 {name}", group, {"method": "rwkvquant", "bits": BITS, **options})


GROUPS: dict[str, list[Row]] = {
    "ours": [Row(OURS, "ours", {"bits": BITS}, lambada=True), _ours("without correction", "ours", correction=0.0)],
    "tuned": _tuned(),
    "paper-style": _paper_style(),
    "choices": [  # Tables 5 and 6: SQ or VQ by each rule, then one budget for all
        _ours("only SQ", "choices", choice="uniform"),
        _ours("only VQ", "choices", choice="codebook"),
        *(_ours(f"Algorithm 1, {reading}", "choices", choice="algorithm1", proxy=reading) for reading in ("paper", "unique", "dithered")),
        _ours("fixed thresholds, unique", "choices", choice="fixed", proxy="unique"),
        _ours("incoherence", "choices", choice="incoherence"),
    ],
    "vectors": [  # Table 7
        _ours("vectors 16 bits", "vectors", vector_bits=16),
        _ours("vectors 3 bits RTN", "vectors", vector_bits=3),
        *(
            _ours(f"vectors 3 bits codebook, {reading}", "vectors", vector_bits=3, vector_codebook=reading)
            for reading in ("mean_square", "paper", "authors")
        ),
    ],
    "whole file": [_ours("default head and embedding", "whole file", head_bits=6, emb_bits=8)],
}
