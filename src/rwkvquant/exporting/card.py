"""The files that are published next to a packed file: README.md, which is Hugging Face's model card, and config.json.

Every number in the card was measured in this run; the card says on which text. The licence comes from the publisher or from the card
of the original; it is never guessed. Files with these names that we did not write are not changed.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.formats.disk import atomic_write
from rwkvquant.runtime.tokenizer_package import INSTALL

CARD, CONFIG = "README.md", "config.json"
MARK = "<!-- written by rwkvquant -->"
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")
MODEL_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?")
MAX_CARD_BYTES = 1 << 20
IMAGE_TASKS = {"classify": "image-classification", "segment": "image-segmentation", "detect": "object-detection"}  # the Hub's names


@dataclass(frozen=True)
class Publication:
    """The packed file's path, and what only the publisher knows. `prepare` makes it, before the long work begins."""

    output: Path
    licence: str
    base_model: str


def prepare(source: str | Path, output: str | Path, licence: str | None, base_model: str | None) -> Publication:
    """Check all that `publish` needs. `base_model` is a name on the Hub; the default is the checkpoint's own name.

    Raises ConfigError if there is no licence, or if a file with the card's name exists that is not ours; CheckpointError for a bad
    checkpoint.
    """
    checkpoint = open_checkpoint(source)
    licence = licence or (_licence_in(checkpoint.path / CARD) if checkpoint.path.is_dir() else None)
    if licence is None:
        raise ConfigError("a card names the licence of the original, and this checkpoint has none; give it, as --license apache-2.0")
    if not LICENCE.fullmatch(licence):
        raise ConfigError(f"a licence is an identifier of the Hub, such as apache-2.0 or cc0-1.0; got {licence!r}")
    path = checkpoint.path.resolve()
    base_model = base_model or re.sub(r"[^A-Za-z0-9._-]+", "-", path.name if path.is_dir() else path.stem).strip("-._") or "unknown"
    if not MODEL_ID.fullmatch(base_model):
        raise ConfigError(f"a base model is a name on the Hub, such as BlinkDL/rwkv7-g1; got {base_model!r}")
    refuse_to_overwrite(Path(output).parent)
    return Publication(Path(output), licence, base_model)


def refuse_to_overwrite(folder: Path) -> None:
    """Raises ConfigError if `folder` has a card or a config that is not ours."""
    for name, is_ours in ((CARD, _is_our_card), (CONFIG, _is_our_config)):
        path = folder / name
        if (path.exists() or path.is_symlink()) and not is_ours(path):
            raise ConfigError(f"{path} exists and was not written by rwkvquant; put the output in its own folder, or move {name} away")


def publish(publication: Publication, divergence: dict[str, Any] | None = None) -> list[str]:
    """Write both files and return their paths. `divergence`: the JSON of `compare`, with the path of its text under "text".

    Raises ConfigError if a file is in the way that is not ours, RwkvQuantError for a full disk.
    """
    folder = publication.output.parent
    refuse_to_overwrite(folder)
    packed = open_packed(publication.output)
    texts = {CARD: card(publication, packed, divergence), CONFIG: json.dumps(config(packed), indent=2) + "\n"}
    for name, text in texts.items():
        with atomic_write(folder / name) as file:
            file.write(text.encode())
    return [str(folder / name) for name in texts]


def config(packed: PackedFile) -> dict[str, Any]:
    """config.json: the sizes, and `quantization_config` without paths of the machine that made the file."""
    dims, ledger, read = packed.dims, packed.ledger(), _read(packed)
    written = {key: value for key, value in packed.quantization_config.items() if key not in ("options", "recipe")}
    settings = written | _what_ran(packed.quantization_config)
    settings |= {
        "bits_total": round(8 * packed.file_bytes / ledger.weights, 4),
        "calibration": {
            "sha256": packed.provenance.get("calibration_sha256"),
            read: packed.provenance.get(f"calibration_{read}"),
        },
        "base_model_sha256": packed.provenance.get("source_sha256"),
        "file": packed.path.name,
    }
    before, after = (
        ({"patch_size": dims.patch, "num_channels": dims.channels, "num_labels": dims.classes}, {})
        if packed.image
        else ({"vocab_size": dims.vocab}, {"head_dim": dims.head_size})
    )
    return {
        "model_type": packed.arch,
        **before,
        "hidden_size": dims.width,
        "intermediate_size": dims.hidden,
        "num_hidden_layers": dims.layers,
        **after,
        "quantization_config": settings,
    }


def _what_ran(stored: dict[str, Any]) -> dict[str, Any]:
    """The options that decided the file's content: from its recipe, or, in a file from before recipes, from its options."""
    if "recipe" not in stored:
        options = stored.get("options", {})
        kept = ("method", "style", "choice", "emb_bits", "vector_bits", "symmetric", "scale_bits", "seed")
        return {key: options[key] for key in kept if key in options}
    recipe = stored["recipe"]
    one = recipe["candidates"][0] if len(recipe["candidates"]) == 1 else {}
    return {
        "method": recipe["method"],
        "style": recipe["quantizer"]["style"],
        "choice": recipe["chooser"]["rule"],
        "emb_bits": _bits(recipe["embedding"]),
        "vector_bits": _bits(recipe["vectors"]),
        "symmetric": one.get("symmetric"),
        "scale_bits": one.get("scale_bits"),
        "seed": recipe["seed"],
    }


def _bits(settings: list[dict[str, Any]]) -> int:
    return int(settings[0]["bits"]) if settings else 16


def card(publication: Publication, packed: PackedFile, divergence: dict[str, Any] | None) -> str:
    """The text of README.md. Strings in its header are quoted as in JSON, which YAML can read."""
    ledger, file, provenance = packed.ledger(), packed.path.name, packed.provenance
    task = IMAGE_TASKS.get(str(packed.task), "image-feature-extraction") if packed.image else "text-generation"
    method = packed.quantization_config.get("options", {}).get("method", "unknown")
    numbers = [
        ("bits per weight, projections and LoRA factors", f"{ledger.bits_per_weight:.3f}"),
        ("bits per weight, whole file", f"{ledger.bits_per_weight_file:.3f}"),
        ("file size", f"{packed.file_bytes:,} bytes"),
        ("weights", f"{ledger.weights:,}"),
    ]
    rows = [f"| {row.label} | {row.weights:,} | {row.stored_bytes:,} |" for row in ledger.rows() if row.weights and not row.subtotal]
    made = [
        ("method", method),
        ("original, sha256", provenance.get("source_sha256")),
        (f"calibration {_read(packed)}, sha256", provenance.get("calibration_sha256")),
    ]
    made += [("rwkvquant", provenance.get("package_version")), ("torch", provenance.get("torch"))]
    return "\n".join(
        [
            "---",
            f"base_model: {json.dumps(publication.base_model)}",
            "base_model_relation: quantized",
            f"license: {json.dumps(publication.licence)}",
            "library_name: rwkvquant",
            f"pipeline_tag: {task}",
            f"tags: [rwkv, {packed.arch}, quantized, rwkvquant]",
            *([f"model-index: {json.dumps(_model_index(file, task, ledger.bits_per_weight, divergence))}"] if divergence else []),
            "---",
            MARK,
            "",
            f"# {publication.base_model}, quantised to {ledger.bits_per_weight:.3f} bits a weight",
            "",
            *_usage(publication, packed),
            "",
            *_table(numbers + _measured(divergence)),
            "",
            "Bits count everything stored for these weights: codes, scales, zeros, codebooks and padding.",
            *([] if divergence else ["This run did not measure how quantisation changed the predictions: `rwkvquant compare` does."]),
            "",
            "| where the bytes go | weights | bytes |",
            "|---|---|---|",
            *rows,
            "",
            *_table([(name, f"`{value}`") for name, value in made if value is not None]),
            "",
        ]
    )


def _read(packed: PackedFile) -> str:
    """What was read for calibration."""
    return "images" if packed.image else "tokens"


def _usage(publication: Publication, packed: PackedFile) -> list[str]:
    file, name = packed.path.name, publication.base_model
    if packed.image:
        return [
            f"`{file}` is {name} and the settings of its images in one file. What is in it:",
            "",
            "    pip install rwkv-hybridquant",
            f"    rwkvquant inspect {file}",
        ]
    return [
        f"`{file}` is {name} and its tokenizer in one file. It runs on a CPU, without torch:",
        "",
        f"    {INSTALL if packed.tokenizer.kind == 'json' else 'pip install rwkv-hybridquant'}",
        f'    rwkvquant generate {file} -p "Once upon a time"',
    ]


def _model_index(file: str, task: str, bits: float | None, divergence: dict[str, Any]) -> list[dict[str, Any]]:
    """The measured numbers, as the header of a model card needs them."""
    metrics = {} if bits is None else {"bits_per_weight": round(bits, 4)}
    named = {"kl_divergence": "kl_mean", "top1_agreement": "top1_agreement", "perplexity": "ppl_quantized", "base_perplexity": "ppl_base"}
    metrics |= {name: round(float(divergence[key]), 6) for name, key in named.items()}
    result = {
        "task": {"type": task},
        "dataset": {"name": Path(divergence["text"]).name, "type": "text"},
        "metrics": [{"type": name, "value": value} for name, value in metrics.items()],
    }
    return [{"name": file, "results": [result]}]


def _table(rows: list[tuple[str, str]]) -> list[str]:
    return ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]


def _measured(divergence: dict[str, Any] | None) -> list[tuple[str, str]]:
    if divergence is None:
        return []
    interval = divergence["kl_ci95"]
    within = f" [{interval[0]:.5f}, {interval[1]:.5f}]" if interval else ""
    return [
        ("KL divergence from the original, nats per token (95 % interval)", f"{divergence['kl_mean']:.5f}{within}"),
        ("same top token", f"{100 * divergence['top1_agreement']:.2f} %"),
        ("perplexity, original and quantised", f"{divergence['ppl_base']:.3f}, {divergence['ppl_quantized']:.3f}"),
        ("measured on", f"{divergence['tokens']:,} tokens of {Path(divergence['text']).name}"),
    ]


def _is_our_card(path: Path) -> bool:
    return path.is_file() and path.stat().st_size < MAX_CARD_BYTES and MARK.encode() in path.read_bytes()


def _is_our_config(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return False
    try:
        return json.loads(path.read_bytes())["quantization_config"]["quant_method"] == "rwkvquant"
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _licence_in(path: Path) -> str | None:
    """The `license:` in a card's header, or None. No YAML parser: only a plain value on the same line is found."""
    if not path.is_file() or path.stat().st_size > MAX_CARD_BYTES:
        return None
    header = re.match(r"---\r?\n(.*?)\n---\s*\n", path.read_text(encoding="utf-8", errors="replace"), re.DOTALL)
    licence = re.search(r"^license:\s*[\"']?([^\s\"'#]+)[\"']?\s*$", header[1], re.MULTILINE) if header else None
    return licence[1] if licence else None
