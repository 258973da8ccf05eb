"""The result of a comparison with llama.cpp: medians over rounds, ratios within them, and a table."""

from __future__ import annotations

import statistics
from typing import Any

Facts = dict[str, dict[str, Any]]  # for each preset or type: bytes_per_token and others


def summarise(ours: Facts, theirs: Facts, rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The machine's speeds, and for each preset and type its facts, speeds and ratios. `rounds` as vs_llama_cpp.measure makes them."""

    def speeds(name: str, what: str) -> list[float]:
        return [each["speeds"][name][what] for each in rounds if what in each["speeds"][name]]

    def ratio(name: str, what: str, other: str, other_what: str) -> float | None:
        pairs = list(zip(speeds(name, what), speeds(other, other_what), strict=False))
        return statistics.median(a / b for a, b in pairs) if pairs else None

    def machine(key: str, name: str) -> list[float]:
        """Of the same number of threads. Theirs run with those of the first of ours."""
        threads = ours.get(name, next(iter(ours.values())))["way"]["threads"]
        return [each[key][str(threads)] for each in rounds]

    rows: dict[str, dict[str, Any]] = {}
    for name, facts in (ours | theirs).items():
        row = rows[name] = dict(facts)
        for what in ("decode", "prefill", "batch"):
            if measured := speeds(name, what):
                row[what] = {"median": statistics.median(measured), "best": max(measured), "worst": min(measured)}
        memory = machine("memory", name)
        moved = [speed * row["bytes_per_token"] for speed in speeds(name, "decode")]
        row["gb_s"] = statistics.median(moved) / 1e9
        row["memory_share"] = statistics.median(m / r for m, r in zip(moved, memory, strict=True))
        row["memory_share_of_best"] = statistics.median(moved) / max(memory)
        row["memory_share_best"] = max(moved) / max(memory)
    for name in ours:
        row = rows[name]
        arithmetic = machine("arithmetic", name)
        prefills = [speed * row["operations_per_token"] for speed in speeds(name, "prefill")]
        row["arithmetic_share"] = statistics.median(p / a for p, a in zip(prefills, arithmetic, strict=False)) if prefills else None
        row["batch_over_one"] = ratio(name, "batch", name, "decode")
        for what in ("decode", "prefill"):
            row[f"{what}_over"] = {kind: ratio(name, what, kind, what) for kind in theirs if speeds(kind, what)}
            if row[f"{what}_over"]:
                row[f"{what}_over_fastest"] = min(row[f"{what}_over"].values())
        everything = {"default": "all columns", "denser": "denser, all columns"}.get(name)
        if everything:
            row["sparse_over_dense"] = ratio(name, "decode", everything, "decode")
            row["of_promise"] = row["sparse_over_dense"] / row["promised"]
    first = next(iter(ours))
    measures = {"memory_gb_s": machine("memory", first), "arithmetic_gop_s": machine("arithmetic", first)}
    return {**{name: {"best": max(of) / 1e9, "median": statistics.median(of) / 1e9} for name, of in measures.items()}, "results": rows}


def show(report: dict[str, Any]) -> None:
    memory, arithmetic, agreement = report["memory_gb_s"], report["arithmetic_gop_s"], report["agreement"]
    print(f"\n{report['shape']}: memory {memory['best']:.1f} GB/s at best, {memory['median']:.1f} in the median round; ", end="")
    print(f"int8 products {arithmetic['best']:.0f} Gop/s at best, {arithmetic['median']:.0f} in the median round; ", end="")
    print(f"both agree on the same weights to a KL of {agreement['kl_max']:.1g}, in F16 to {agreement['kl_max_16_bits']:.1g}")
    print(f"{'':<20}{'MB/token':>9}{'decode':>9}{'best':>8}{'GB/s':>7}{'of it':>7}{'prefill':>9}{'best':>8}{'int8':>7}", end="")
    print(f"{'batch':>8}{'gain':>6}   over llama.cpp: {'fastest':>8}{'F16':>7}{'prefill':>9}")
    for name, row in report["results"].items():
        decode, prefill, batch = row["decode"], row.get("prefill", {}), row.get("batch", {})
        print(f"{name:<20}{row['bytes_per_token'] / 1e6:>9.1f}{decode['median']:>9.1f}{decode['best']:>8.1f}", end="")
        print(f"{row['gb_s']:>7.1f}{row['memory_share']:>7.0%}{cell(prefill.get('median'), 9)}{cell(prefill.get('best'), 8)}", end="")
        print(f"{100 * row['arithmetic_share']:>6.0f}%" if row.get("arithmetic_share") else f"{'':7}", end="")
        print(f"{cell(batch.get('median'), 8)}{cell(row.get('batch_over_one'), 6, 2)}{'':19}", end="")
        print(f"{cell(row.get('decode_over_fastest'), 8, 2)}{cell(row.get('decode_over', {}).get('F16'), 7, 2)}", end="")
        print(cell(row.get("prefill_over_fastest"), 9, 2))
    for name, row in report["results"].items():
        if "of_promise" in row:
            print(f"{name}: sparse over dense {row['sparse_over_dense']:.3f}, promised {row['promised']:.3f}: {row['of_promise']:.1%}")
    for kind, why in report["failed"].items():
        print(f"{kind}: {why}")


def cell(value: float | None, width: int, digits: int = 1) -> str:
    return f"{value:>{width}.{digits}f}" if value is not None else " " * width
