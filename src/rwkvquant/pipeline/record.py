"""What the file keeps, and the user sees, of a job: options and recipe, where the weights come from, and where the bytes go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.config import QuantizeRequest
from rwkvquant.formats.ledger import Ledger
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.materials import Materials
from rwkvquant.pipeline.plan import PlannedTensor
from rwkvquant.recipes import Recipe
from rwkvquant.results import QuantizeResult, SourceSize


def quantization_config(request: QuantizeRequest, recipe: Recipe, plan: list[PlannedTensor]) -> dict[str, Any]:
    """The keys that loaders of other quantised checkpoints know, then what was asked for and what ran."""
    quantised = [tensor for tensor in plan if tensor.spec.role in QUANTIZED_ROLES]
    stored, weights = sum(tensor.stored_bytes for tensor in quantised), sum(t.shape[0] * t.shape[1] for t in quantised)
    return {
        "bits": round(8 * stored / weights, 4),
        "group_size": getattr(recipe.candidates[0].codec, "group_size", None) if recipe.one_setting else None,
        "head_bits": recipe.head[0].codec.code_bits if recipe.head else 16,
        "modules_to_not_convert": sorted({tensor.spec.name for tensor in plan if tensor.setting is None}),
        "options": request.to_dict(),
        "recipe": recipe.to_json(),
    }


def provenance(checkpoint: Checkpoint, calibrated: Calibration | None) -> dict[str, Any]:
    adapter, of_text = checkpoint.adapter, checkpoint.image is None
    return {
        "source": checkpoint.path.resolve().name,
        "source_sha256": checkpoint.sha256(),
        **({"adapter": adapter.path.resolve().name, "adapter_sha256": adapter.sha256} if adapter else {}),
        "calibration_sha256": calibrated.sha256 if calibrated else None,
        **{f"calibration_{'tokens' if of_text else 'images'}": list(calibrated.rows.shape) if calibrated else None},
        "torch": torch.__version__,
    }


def result(
    checkpoint: Checkpoint, ledger: Ledger, materials: Materials, output: str | None = None, fallen_back: Iterable[str] = ()
) -> QuantizeResult:
    """Before and after. `output` None: the ledger is a plan."""
    before, tokenizer = checkpoint.summary(), materials.tokenizer
    return QuantizeResult(
        output=output,
        source=SourceSize(**{key.name: before[key.name] for key in dataclasses.fields(SourceSize)}),
        tokenizer=tokenizer.to_data().kind if tokenizer else None,
        tokenizer_source=tokenizer.source if tokenizer else None,
        file_bytes=ledger.file_bytes,
        bits_per_weight=ledger.bits_per_weight,
        bits_per_weight_projections=ledger.bits_per_weight_projections,
        bits_per_weight_file=ledger.bits_per_weight_file,
        ledger=tuple(ledger.rows()),
        tensors=ledger.items,
        fallen_back=tuple(fallen_back),
    )
