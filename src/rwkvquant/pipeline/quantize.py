"""Quantise a checkpoint: the whole story on one page.

Pass 1, where a method has a choice, tries every candidate on full-precision inputs (measure.py); choose.py gives every matrix its
setting, and plan.py every tensor its place. Pass 2 goes block by block: run the calibration text through the block with the weights
as they were, on inputs that the quantised blocks before it produced; quantise the block's tensors with what was learnt
(tensors.py); run the text again through the quantised block, for the next one. One block's weights and one batch's activations are
in memory; the hidden states lie in the work directory, the finished tensors in the writer's spool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rwkvquant.architectures import MATRIX_ROLES, Role
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.codecs import ALIGNMENT
from rwkvquant.config import CalibrationConfig, QuantizeConfig
from rwkvquant.errors import CalibrationError, ConfigError
from rwkvquant.formats.container import ContainerWriter, check_output, open_packed
from rwkvquant.formats.ledger import Ledger
from rwkvquant.kernels.tiles import padded
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline import fingerprint
from rwkvquant.pipeline.allocation import give_back
from rwkvquant.pipeline.block_journal import BlockJournal
from rwkvquant.pipeline.blocks import CalibrationText
from rwkvquant.pipeline.choose import choose_settings, require_reachable
from rwkvquant.pipeline.measure import measure
from rwkvquant.pipeline.plan import PlannedTensor, make_plan, planned_ledger
from rwkvquant.pipeline.plan_file import from_json, to_json
from rwkvquant.pipeline.products import fast_products
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import allowed_settings, plain_codec, quantized_shapes
from rwkvquant.pipeline.tensors import NOTHING, TensorWriter
from rwkvquant.pipeline.work_dir import WorkDirectory, work_directory
from rwkvquant.recipes.setting import Setting
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
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write `output` and return its ledger as JSON. Raises children of RwkvQuantError; then nothing stands under the final name.

    `resume` "auto", "required" or "never" says what to do with what an earlier run left in `work_dir`. `stop` is asked behind each
    block, and True raises StoppedError, if there is a `work_dir` to go on from.
    """
    config, progress = config or QuantizeConfig(), progress or Progress()
    check_output(output, source, *_given(config.calibration.path, config.tokenizer))
    try:
        with fast_products(), work_directory(work_dir, output, resume, stop, progress) as work:
            return _quantize(Path(source), Path(output), config, progress, work)
    finally:
        progress.end()


def _quantize(source: Path, output: Path, config: QuantizeConfig, progress: Progress, work: WorkDirectory) -> dict[str, Any]:
    checkpoint, device = open_checkpoint(source), _device(config)
    check_output(output, *checkpoint.files)
    tokenizer = load_tokenizer(config.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
    calibrated = _calibrate(config, tokenizer, progress) if config.needs_calibration else None
    chosen = _choose(checkpoint, config, calibrated, work, device, progress)
    plan = make_plan(checkpoint, config, chosen)

    text_sum = calibrated.sha256 if calibrated else None
    made_from = fingerprint.of_pass_2(checkpoint.sha256(), text_sum, tokenizer.to_data(), chosen, config)
    journal = work.journal("journal.json", made_from, may_be_missing=config.measures_candidates)  # if only pass 1 has begun
    scratch = work.folder("pass2", keep=journal.state is not None)
    with ContainerWriter(output, scratch / "spool" if work.lasting else None) as writer:
        tensors = TensorWriter(checkpoint, plan, config, writer, progress)
        text = None
        if calibrated is not None:
            text = CalibrationText(checkpoint, config, calibrated.tokens, calibrated.kept_out, scratch, device)
        done, layers = BlockJournal(journal, writer, tensors, text), checkpoint.dims.layers
        if done.blocks:
            progress.note(f"going on behind block {min(done.blocks, layers)} of {layers}: {work.path} has what comes before")
        progress.begin(len(plan) - len(writer))

        weights = CheckpointSource(checkpoint, device)
        original = weights.globals()
        outer = tensors.write(original, None, BEFORE)
        if done.blocks is None:
            if text:
                progress.phase("embedding the calibration text")
                text.embed(outer, original)
            done.note(0, "the embedding")
        large = {spec.name for spec in checkpoint.architecture.outside if spec.role in MATRIX_ROLES}
        outer = {name: weight for name, weight in outer.items() if name not in large}  # the head is read again when its turn comes
        del original

        for layer in range(done.blocks or 0, layers):
            block = weights.block(layer)
            which = f"block {layer + 1} of {layers}"
            progress.phase(f"{which}: reading the text" if text else which)
            collected = text.collect(block, layer) if text else NOTHING
            progress.phase(f"{which}: quantising" if text else which)
            quantised = tensors.write(block, layer, BLOCK, collected)
            del collected
            give_back()
            if text:
                progress.phase(f"{which}: going on")
                text.advance(quantised, block, layer)
            give_back()
            done.note(layer + 1, which)

        if done.blocks == layers:
            progress.phase("head")
            tensors.write(weights.globals(), None, BEHIND, text.collect_head(outer) if text else NOTHING)
            done.note(layers + 1, "the head")
        progress.phase("writing")
        if tensors.fallen_back:
            progress.note(f"without error feedback, for less error on text kept out: {', '.join(tensors.fallen_back)}")
        writer.finish(
            model={"arch": checkpoint.arch, "dims": checkpoint.dims},
            quantization_config=_quantization_config(config, plan),
            tokenizer=tokenizer.to_data(),
            provenance=_provenance(checkpoint, calibrated),
        )
    journal.remove()
    work.clear("pass2")
    return _result(checkpoint, open_packed(output).ledger()) | {"output": str(output), "fallen_back": tensors.fallen_back}


def plan_only(
    source: str | Path,
    config: QuantizeConfig | None = None,
    progress: Progress | None = None,
    work_dir: str | Path | None = None,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The ledger of the file that `quantize` would write: without pass 2, and with pass 1 only where the method has one.

    The header's few kilobytes are not in it.
    """
    config, progress = config or QuantizeConfig(), progress or Progress()
    try:
        with fast_products(), work_directory(work_dir, None, resume, stop, progress) as work:
            checkpoint = open_checkpoint(source)
            tokenizer = load_tokenizer(config.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
            device, calibrated = _device(config), None
            if config.needs_calibration:  # a text that is none should not be found out on the day
                calibrated = _calibrate(config, tokenizer, progress)
            plan = make_plan(checkpoint, config, _choose(checkpoint, config, calibrated, work, device, progress))
    finally:
        progress.end()
    arrays = tokenizer.to_data().arrays.values()
    return _result(checkpoint, planned_ledger(plan, sum(padded(array.size, ALIGNMENT) for array in arrays)))


def _choose(
    checkpoint: Checkpoint,
    config: QuantizeConfig,
    calibrated: Calibration | None,
    work: WorkDirectory,
    device: torch.device,
    progress: Progress,
) -> dict[str, Setting]:
    """A setting for every matrix, after pass 1 where there is one; a work directory keeps what that found, for another budget."""
    if not config.measures_candidates:
        return choose_settings(checkpoint, config, None, progress)
    assert calibrated is not None
    require_reachable(checkpoint, config)
    settings = allowed_settings(config, list(quantized_shapes(checkpoint)))
    journal = work.journal("plan.json", fingerprint.of_pass_1(checkpoint.sha256(), calibrated.sha256, settings, config))
    measured = None
    if journal.state and journal.state.get("complete"):
        measured = from_json(journal.state.get("tensors"))
        if measured is None:
            journal.start_anew("is damaged")
        else:
            progress.note(f"pass 1 skipped: {journal.path} has it")
    if measured is None:
        seen = calibrated.tokens[: len(calibrated.tokens) - calibrated.kept_out]
        scratch = work.folder("pass1", keep=journal.state is not None)
        measured = measure(checkpoint, config, seen, scratch, device, progress, journal)
    chosen = choose_settings(checkpoint, config, measured, progress)
    if journal.state != (state := {"complete": True, "tensors": to_json(measured, chosen)}):
        journal.note(state, "pass 1")
    work.clear("pass1")
    give_back()
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


def _quantization_config(config: QuantizeConfig, plan: list[PlannedTensor]) -> dict[str, Any]:
    """The keys that loaders of other quantised checkpoints know, then all our options."""
    quantised = sum(t.stored_bytes for t in plan if t.spec.role in (Role.PROJECTION, Role.LORA))
    weights = sum(t.shape[0] * t.shape[1] for t in plan if t.spec.role in (Role.PROJECTION, Role.LORA))
    return {
        "bits": round(8 * quantised / weights, 4),
        "group_size": getattr(plain_codec(config), "group_size", None) if config.code_bits is not None else None,
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
