"""The JSON that other commands print: known by its fields, not by its name.

Each field that the page uses is checked, because anybody may have written the file.

    quantize    `quantize --json`        compare   `compare --json`, of text or images      demo   `demo --json`
    bench       `bench --json`           eval      `eval --json`                            plan   plan.json of `quantize --work-dir`
    activations `activations --json`, of one tensor each
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

Json = Mapping[str, Any]


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _mapping(value: Any) -> bool:
    return isinstance(value, Mapping)


def _pair(value: Any) -> bool:
    return value is None or (isinstance(value, list | tuple) and len(value) == 2 and all(map(number, value)))


def _all(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, Mapping) and bool(value) and all(test(each) for each in value.values())


def _rows(**fields: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list | tuple) and all(_fits(each, fields) for each in value)


def _fits(value: Any, fields: Mapping[str, Callable[[Any], bool]]) -> bool:
    return isinstance(value, Mapping) and all(test(value.get(name)) for name, test in fields.items())


def _optional(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or test(value)


def _is_histogram(value: Any) -> bool:
    """As np.histogram has it, with a normal distribution in the same bins."""
    parts: list[Any] = [value.get(name) for name in ("edges", "counts", "normal")] if isinstance(value, Mapping) else []
    if not parts or not all(isinstance(part, list) and part and all(map(number, part)) for part in parts):
        return False
    edges, counts, normal = parts
    return len(edges) == len(counts) + 1 == len(normal) + 1 and all(a < b for a, b in pairwise(edges)) and min(*counts, *normal) >= 0


_SOURCE = {"file": _text, "file_bytes": _count, "bits_per_weight_file": number}
_QUANTIZE = {"source": lambda v: _fits(v, _SOURCE), "file_bytes": _count, "bits_per_weight": number, "tensors": _rows(name=_text)}
_COMPARED = {
    "kl_mean": number,
    "kl_ci95": _pair,
    "kl_p99": number,
    "top1_agreement": number,
    "top1_ci95": _pair,
    "kl_by_position": _optional(_rows(first=_count, last=_count, tokens=_count, kl_mean=number)),
    **dict.fromkeys(("ppl_base", "ppl_quantized", "score_base", "score_quantized"), _optional(number)),
    **dict.fromkeys(("tokens", "images"), _optional(_count)),
}
_PROXY = {"coarse": number, "fine": lambda v: isinstance(v, list) and len(v) >= 3 and all(map(number, v))}
_CLIP = {"low": number, "high": number, "share": number}
_MEASURED = {"proxies": lambda v: isinstance(v, Mapping) and all(_fits(each, _PROXY) for each in v.values())}

# What makes a JSON one of a kind, and all fields of it that the page uses.
MARKS = {
    "demo": ("quantize", "compare"),
    "quantize": ("source", "ledger", "tensors"),
    "compare": ("kl_mean", "top1_agreement", "quantised"),
    "bench": ("roofline_share", "backend"),
    "plan": ("made_from", "state"),
    "eval": ("file", "ppl", "nll"),
    "lambada": ("file", "ppl", "acc"),
    "scores": ("file", "images_sha256", "resamples"),
    "activations": ("tensor", "activation", "histogram"),
}
FIELDS: dict[str, Mapping[str, Callable[[Any], bool]]] = {
    "demo": {"quantize": _all(lambda v: _fits(v, _QUANTIZE)), "compare": _all(lambda v: _fits(v, _COMPARED))},
    "quantize": _QUANTIZE,
    "compare": _COMPARED,
    "bench": {
        "file": _text,
        "file_bytes": _count,
        "roofline_share": number,
        "threads": _count,
        "machine": _optional(_text),
        **dict.fromkeys(("decode_tok_s", "prefill_tok_s", "prefill_share", "roofline_gb_s", "gb_s", "images_s"), _optional(number)),
    },
    "plan": {"made_from": _mapping, "state": lambda v: _fits(v, {"tensors": _optional(_all(lambda each: _fits(each, _MEASURED)))})},
    "eval": {"ppl": number, "nll": number, "tokens": _count},
    "lambada": {"ppl": number, "acc": number, "docs": _count},
    "activations": {
        **dict.fromkeys(("file", "tensor", "activation", "meets"), _text),
        **dict.fromkeys(("min", "max"), number),
        "values": _count,
        "kurtosis": _optional(number),
        "clip": lambda v: _fits(v, _CLIP),
        "histogram": _is_histogram,
    },
    "scores": {
        "images": _count,
        **dict.fromkeys(("top1", "top5", "miou", "ap", "ap50"), _optional(number)),
        **{f"{name}_ci95": _pair for name in ("top1", "top5", "miou", "ap", "ap50")},
    },
}


def kind_of(content: Any) -> str | None:
    """Which command printed this; None if none did."""
    if not isinstance(content, Mapping):
        return None
    return next((kind for kind, marks in MARKS.items() if all(mark in content for mark in marks)), None)


def is_valid(kind: str, content: Json) -> bool:
    """Whether every field that the page uses has its type."""
    return _fits(content, FIELDS[kind])
