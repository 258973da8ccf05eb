"""Quantise a checkpoint: the whole story on one page.

Pass 1, where a method has a choice, tries every candidate on full-precision inputs (measure.py); choose.py gives every matrix its
setting, and plan.py every tensor its place. Pass 2 goes block by block: run the calibration text through the block with the weights
as they were, on inputs that the quantised blocks before it produced; quantise the block's tensors with what was learnt
(tensors.py); run the text again through the quantised block, for the next one. One block's weights and one batch's activations are
in memory; the hidden states lie in the work directory, the finished tensors in the writer's spool.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.checkpoints.tables import Role
from rwkvquant.config import CalibrationConfig, QuantizeConfig
from rwkvquant.errors import CalibrationError, ConfigError
from rwkvquant.formats.container import ContainerWriter, check_output, open_packed
from rwkvquant.formats.layout import ALIGNMENT
from rwkvquant.formats.ledger import Ledger
from rwkvquant.kernels.tiles import padded
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline.blocks import CalibrationText
from rwkvquant.pipeline.choose import choose_settings, require_reachable
from rwkvquant.pipeline.measure import measure
from rwkvquant.pipeline.plan import PlannedTensor, make_plan, planned_ledger
from rwkvquant.pipeline.plan_file import fingerprint, load_plan, save_plan
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import Setting, allowed_settings, quantized_shapes
from rwkvquant.pipeline.tensors import NOTHING, TensorWriter
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer

BEHIND = {Role.HEAD}  # quantised last, with the statistics of what the quantised blocks give it
BEFORE = set(Role) - BEHIND
BLOCK = set(Role)
KEPT_OUT = 8  # one document in so many is kept out of what quantisers see, and judges them


def quantize(
    source: str | Path,
    output: str | Path,
    config: QuantizeConfig | None = None,
    *,
    progress: Progress | None = None,
    work_dir: str | Path | None = None,
) -> dict[str, Any]:
    """Write `output` and return its ledger as JSON. Raises children of RwkvQuantError; then nothing stands under the final name."""
    config, progress = config or QuantizeConfig(), progress or Progress()
    check_output(output, source, *_given(config.calibration.path, config.tokenizer))
    checkpoint = open_checkpoint(source)
    check_output(output, *checkpoint.files)
    tokenizer = load_tokenizer(config.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    device = _device(config)
    calibrated = _calibrate(config, tokenizer, progress) if config.needs_calibration else None
    try:
        with _work_directory(work_dir, output) as scratch, ContainerWriter(output) as writer:
            chosen = _choose(checkpoint, config, calibrated, work_dir, scratch, device, progress)
            plan = make_plan(checkpoint, config, chosen)
            progress.begin(len(plan))
            tensors = TensorWriter(checkpoint, plan, config, writer, progress)
            weights = CheckpointSource(checkpoint, device)
            original = weights.globals()
            outer = tensors.write(original, None, BEFORE)
            text = None
            if calibrated is not None:
                progress.phase("embedding the calibration text")
                text = CalibrationText(checkpoint, config, calibrated.tokens, calibrated.kept_out, scratch, device)
                text.embed(outer, original)

            for layer in range(checkpoint.dims.layers):
                block = weights.block(layer)
                progress.phase(f"block {layer + 1} of {checkpoint.dims.layers}")
                quantised = tensors.write(block, layer, BLOCK, text.collect(block, layer) if text else NOTHING)
                if text:
                    text.advance(quantised, block, layer)

            tensors.write(outer, None, BEHIND, text.collect_head(outer) if text else NOTHING)
            progress.phase("writing")
            if tensors.fallen_back:
                progress.note(f"without error feedback, for less error on text kept out: {', '.join(tensors.fallen_back)}")
            writer.finish(
                model={"arch": checkpoint.arch, "dims": checkpoint.dims},
                quantization_config=_quantization_config(config, plan),
                tokenizer=tokenizer.to_data(),
                provenance=_provenance(checkpoint, calibrated),
            )
    finally:
        progress.end()
    return _result(checkpoint, open_packed(output).ledger()) | {"output": str(output), "fallen_back": tensors.fallen_back}


def plan_only(
    source: str | Path, config: QuantizeConfig | None = None, progress: Progress | None = None, work_dir: str | Path | None = None
) -> dict[str, Any]:
    """The ledger of the file that `quantize` would write: without pass 2, and with pass 1 only where the method has one.

    The header's few kilobytes are not in it.
    """
    config, progress = config or QuantizeConfig(), progress or Progress()
    checkpoint = open_checkpoint(source)
    tokenizer = load_tokenizer(config.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    device, calibrated = _device(config), None
    if config.needs_calibration:  # a text that is none should not be found out on the day
        calibrated = _calibrate(config, tokenizer, progress)
    try:
        with _work_directory(work_dir or tempfile.gettempdir(), "") as scratch:
            plan = make_plan(checkpoint, config, _choose(checkpoint, config, calibrated, work_dir, scratch, device, progress))
    finally:
        progress.end()
    arrays = tokenizer.to_data().arrays.values()
    return _result(checkpoint, planned_ledger(plan, sum(padded(array.size, ALIGNMENT) for array in arrays)))


def _choose(
    checkpoint: Checkpoint,
    config: QuantizeConfig,
    calibrated: Calibration | None,
    work_dir: str | Path | None,
    scratch: Path,
    device: torch.device,
    progress: Progress,
) -> dict[str, Setting]:
    """A setting for every matrix, after pass 1 where there is one; a work directory keeps what that found, for another budget."""
    if not config.measures_candidates:
        return choose_settings(checkpoint, config, None, progress)
    assert calibrated is not None
    require_reachable(checkpoint, config)
    seen = calibrated.tokens[: len(calibrated.tokens) - calibrated.kept_out]
    if work_dir is None:
        return choose_settings(checkpoint, config, measure(checkpoint, config, seen, scratch, device, progress), progress)

    keep, settings = Path(work_dir), allowed_settings(config, list(quantized_shapes(checkpoint)))
    mark = fingerprint(checkpoint.sha256(), calibrated.sha256, settings, config)
    measured = load_plan(keep, mark)
    if measured is None:
        measured = measure(checkpoint, config, seen, scratch, device, progress)
    else:
        progress.note(f"pass 1 skipped: {keep}/plan.json has it")
    chosen = choose_settings(checkpoint, config, measured, progress)
    save_plan(keep, mark, measured, chosen)
    return chosen


@dataclass(frozen=True)
class Calibration:
    """tokens (rows, length), of which the last `kept_out` come from documents of their own.

    sha256 of those tokens, so that two runs on the same ones can be told from two on different ones.
    """

    tokens: NDArray[np.int64]
    kept_out: int
    sha256: str


def _calibrate(config: QuantizeConfig, tokenizer: Tokenizer, progress: Progress) -> Calibration:
    """Raises CalibrationError for a text that is missing, no text, or too short."""
    options = config.calibration
    documents = load_documents(_calibration_path(options))
    apart = documents[::KEPT_OUT] if config.fall_back and options.rows >= KEPT_OUT and len(documents) >= KEPT_OUT else []
    seen = [document for i, document in enumerate(documents) if not apart or i % KEPT_OUT]
    rows = options.rows - options.rows // KEPT_OUT if apart else options.rows
    tokens = calibration_rows(seen, tokenizer, rows, options.length, config.seed)
    kept_out = 0
    if apart:
        try:
            judges = calibration_rows(apart, tokenizer, options.rows // KEPT_OUT, options.length, config.seed)
            tokens, kept_out = np.concatenate([tokens, judges]), len(judges)
        except CalibrationError:
            pass  # too little to keep any of it out
    if len(tokens) < options.rows:
        progress.note(f"the calibration text gives {len(tokens)} rows of {options.length} tokens, not {options.rows}")
    return Calibration(tokens, kept_out, hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest())


def _given(*paths: str | None) -> list[str]:
    return [path for path in paths if path is not None]


def _calibration_path(config: CalibrationConfig) -> Path:
    return Path(config.path) if config.path else Path(str(resources.files("rwkvquant") / "assets" / "calibration.txt"))


def _device(config: QuantizeConfig) -> torch.device:
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU and a CUDA build of torch; this machine has none. Try --device cpu")
    try:
        return torch.device(config.device)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N; got {config.device}") from None


@contextmanager
def _work_directory(work_dir: str | Path | None, output: str | Path) -> Iterator[Path]:
    """A folder of our own in the user's, which is made if need be, or beside the output; removed at the end."""
    parent = Path(output).parent if work_dir is None else Path(work_dir)
    if parent.exists() and not parent.is_dir():
        raise ConfigError(f"the work directory must be a folder; {parent} is a file")
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".rwkvquant-", dir=parent) as own:
        yield Path(own)


def _quantization_config(config: QuantizeConfig, plan: list[PlannedTensor]) -> dict[str, Any]:
    """The keys that loaders of other quantised checkpoints know, then all our options."""
    quantised = sum(t.stored_bytes for t in plan if t.spec.role in (Role.PROJECTION, Role.LORA))
    weights = sum(t.shape[0] * t.shape[1] for t in plan if t.spec.role in (Role.PROJECTION, Role.LORA))
    return {
        "bits": round(8 * quantised / weights, 4),
        "group_size": getattr(config.plain_codec, "group_size", None) if config.code_bits is not None else None,
        "head_bits": config.head_bits,
        "modules_to_not_convert": sorted({t.spec.name for t in plan if t.setting is None}),
        "options": config.to_dict(),
    }


def _provenance(checkpoint: Checkpoint, calibrated: Calibration | None) -> dict[str, Any]:
    return {
        "source": checkpoint.path.resolve().name,
        "source_sha256": checkpoint.sha256(),
        "calibration_sha256": calibrated.sha256 if calibrated else None,
        "calibration_tokens": list(calibrated.tokens.shape) if calibrated else None,
        "torch": torch.__version__,
    }


def _result(checkpoint: Checkpoint, ledger: Ledger) -> dict[str, Any]:
    before = checkpoint.summary()
    source = {key: before[key] for key in ("file", "dtype", "file_bytes", "bits_per_weight", "bits_per_weight_file")}
    return {"source": source, **ledger.to_json()}
