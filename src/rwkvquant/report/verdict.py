"""The first screen: what this is, and what it costs and gives, for a reader who is new to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rwkvquant.formats.container import PackedFile
from rwkvquant.report.sources import Sources

SCORES = {"top1": "Top-1 accuracy", "miou": "mIoU", "ap50": "AP50", "top5": "Top-5 accuracy", "ap": "AP"}
PLACES = {"top1": "classes", "miou": "pixels", "ap50": "patches"}


@dataclass(frozen=True)
class Tile:
    """A number of the first screen: `label`, the number itself, its interval or "", and a sentence."""

    label: str
    value: str
    interval: str
    about: str


def subject(packed: PackedFile) -> str:
    """One sentence: what this is, how large and by which method."""
    kind = "model for images" if packed.image is not None else "language model"
    weights = sum(entry.weights for entry in packed.tensors.values())
    source = packed.provenance.get("source")
    made = f", made from {source}" if isinstance(source, str) else ""
    return (
        f"{an(packed.architecture.title)} {kind} with {spoken(weights)} weights in {packed.dims.layers} layers of width "
        f"{packed.dims.width:,}, quantised with the method {method(packed)}{made}."
    )


def method(packed: PackedFile) -> str:
    options = packed.quantization_config.get("options")
    return str(options.get("method", "unknown")) if isinstance(options, Mapping) else "unknown"


def tiles(sources: Sources) -> list[Tile]:
    packed = sources.packed
    assert packed is not None
    return [*_sizes(sources, packed), *_changes(sources), *_scores(sources), *_speed(sources)]


def _sizes(sources: Sources, packed: PackedFile) -> list[Tile]:
    ledger, before = packed.ledger(), original_bytes(sources)
    found = []
    if ledger.bits_per_weight is not None:
        whole = f"; {ledger.bits_per_weight_file:.3f} over the whole file" if ledger.bits_per_weight_file is not None else ""
        found.append(
            Tile("Bits per weight", f"{ledger.bits_per_weight:.3f}", "", f"in the large matrices, with scales and codebooks{whole}")
        )
    smaller = f"{before / packed.file_bytes:.2f} times smaller than the original's {size(before)}" if before else "all of the file"
    return [*found, Tile("File", size(packed.file_bytes), "", smaller)]


def original_bytes(sources: Sources) -> int | None:
    if sources.original is not None:
        return int(sources.original.summary()["file_bytes"])
    return int(sources.get("quantize")["source"]["file_bytes"]) if "quantize" in sources.found else None


def _changes(sources: Sources) -> list[Tile]:
    found = sources.get("compare")
    if not found:
        return []
    images = found.get("images") is not None
    place = PLACES.get(str(found.get("score")), "positions")
    measured = f"the {place} of {found['images']:,} images" if images else f"{found.get('tokens') or 0:,} tokens of text"
    result = [
        Tile(
            "Same prediction" if images else "Same top token",
            percent(found["top1_agreement"]),
            bracket(found["top1_ci95"], 100, ".1f", " %"),
            f"how often its likeliest answer is that of the original, in {measured}",
        ),
        Tile(
            "KL divergence",
            f"{found['kl_mean']:.4g}",
            bracket(found["kl_ci95"], 1, ".4g"),
            f"nats for each {'position' if images else 'token'}: the distance from the original's predictions; 0 is no change at all",
        ),
    ]
    if found.get("ppl_base") is not None and found.get("ppl_quantized") is not None:
        about = f"the original has {found['ppl_base']:.2f}; lower is better"
        result.append(Tile("Perplexity", f"{found['ppl_quantized']:.2f}", "", about))
    if found.get("score_base") is not None and found.get("score_quantized") is not None:
        name = SCORES.get(str(found.get("score")), str(found.get("score")))
        result.append(Tile(name, percent(found["score_quantized"]), "", f"the original has {percent(found['score_base'])}"))
    return result


def _scores(sources: Sources) -> list[Tile]:
    result = []
    if (found := sources.get("eval")) and "compare" not in sources.found:
        result.append(Tile("Perplexity", f"{found['ppl']:.2f}", "", f"of {found['tokens']:,} tokens of text; lower is better"))
    if found := sources.get("lambada"):
        result.append(Tile("LAMBADA", percent(found["acc"]), "", f"of {found['docs']:,} last words are the likeliest"))
    if (found := sources.get("scores")) and "compare" not in sources.found:
        for name, label in SCORES.items():
            if found.get(name) is not None:
                interval = bracket(found[f"{name}_ci95"], 100, ".1f", " %") if f"{name}_ci95" in found else ""
                result.append(Tile(label, percent(found[name]), interval, f"of {found['images']:,} images"))
    return result


def _speed(sources: Sources) -> list[Tile]:
    found = sources.get("bench")
    if not found:
        return []
    threads = f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}"
    if found.get("decode_tok_s") is not None:
        about = f"{percent(found['roofline_share'], 0)} of what the memory of the machine that measured it allows, on {threads}"
        return [Tile("Writes", f"{found['decode_tok_s']:,.1f} tokens/s", "", about)]
    if found.get("images_s") is not None:
        about = f"{percent(found['roofline_share'], 0)} of what the arithmetic of the machine that measured it allows, on {threads}"
        return [Tile("Reads", f"{found['images_s']:,.1f} images/s", "", about)]
    return []


def conditions(sources: Sources) -> list[tuple[str, str]]:
    """Where the numbers come from."""
    packed, rows = sources.packed, []
    if packed is not None:
        kept = packed.provenance
        names = {"source": "made from", "source_sha256": "SHA-256 of it", "calibration_sha256": "SHA-256 of the calibration data"}
        names |= {"package_version": "rwkvquant", "torch": "torch"}
        rows += [(label, str(kept[name])) for name, label in names.items() if kept.get(name) is not None]
        rows.append(("engine decodes first", ", ".join(packed.decoded_layouts()) or "nothing"))
    for label, kind, name in (("text or images", "compare", "windows_sha256"), ("text or images", "compare", "images_sha256")):
        if sources.get(kind).get(name):
            rows.append((f"SHA-256 of the measured {label}", str(sources.get(kind)[name])))
    if bench := sources.get("bench"):
        rows.append(("speed was measured on", f"{bench.get('machine') or 'an unknown machine'}, {bench['backend']}"))
        if bench.get("roofline_gb_s") is not None:
            rows.append(("its memory", f"{bench['roofline_gb_s']:.1f} GB/s, of which decoding uses {bench.get('gb_s') or 0:.1f}"))
    return rows


def missing(sources: Sources) -> list[tuple[str, str]]:
    """What the page has no data for, and the command that makes it."""
    packed = sources.packed
    if packed is None:
        return []
    file, stem = packed.path.name, packed.path.stem
    before = str(packed.provenance.get("source") or "ORIGINAL")
    on = "--images SET" if packed.image is not None else "--text some.txt"
    found = []
    if "compare" not in sources.found:
        found.append(("What quantising changed", f"rwkvquant compare {before} {file} {on} --json > {stem}.compare.json"))
    if "bench" not in sources.found:
        found.append(("How fast it is here", f"rwkvquant bench {file} --json > {stem}.bench.json"))
    if sources.original is None:
        found.append(("The original's weights next to the stored ones", f"rwkvquant report {file} --original {before} -o report.html"))
    return found


def an(words: str) -> str:
    return f"An {words}" if words[:1] in "AEFHILMNORSX" and words[:2].isupper() else f"A {words}"


def spoken(count: int) -> str:
    """ "9.1 million"."""
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if count >= unit:
            return f"{count / unit:.3g} {name}"
    return f"{count:,}"


def size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    return f"{count:.2f} GB"


def percent(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f} %"


def bracket(pair: Sequence[float] | None, times: float, form: str, unit: str = "") -> str:
    """ "0.031 to 0.042", or nothing without an interval."""
    return f"{times * pair[0]:{form}} to {times * pair[1]:{form}}{unit}" if pair else ""
