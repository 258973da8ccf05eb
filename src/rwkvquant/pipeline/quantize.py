"""Quantise a checkpoint: the whole story on one page.

Every tensor has its grid before anything is calibrated (plan.py). Then block by block: run the calibration text through the block
with the weights as they were, on inputs that the quantised blocks before it produced; quantise the block's tensors with what
was learnt (tensors.py); run the text again through the quantised block, for the next one. One block's weights and one batch's
activations are in memory; the hidden states lie in the work directory, the finished tensors in the writer's spool.
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

from rwkvquant.calibration.collect import HiddenStates, advance, collect_block, collect_head, product_inputs
from rwkvquant.calibration.samples import calibration_rows, load_documents
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.checkpoints.tables import TABLES, Role
from rwkvquant.config import CalibrationConfig, QuantizeConfig
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import ContainerWriter, check_output, open_packed
from rwkvquant.formats.layout import ALIGNMENT
from rwkvquant.formats.ledger import Ledger
from rwkvquant.kernels.tiles import padded
from rwkvquant.models import CheckpointSource, architecture
from rwkvquant.pipeline.plan import PlannedTensor, make_plan, planned_ledger
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.tensors import TensorWriter
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer

BEHIND = {Role.HEAD}  # quantised last, with the statistics of what the quantised blocks give it
BEFORE = set(Role) - BEHIND
BLOCK = set(Role)


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
    tokenizer = load_tokenizer(config.tokenizer, checkpoint.dims.vocab)
    device = _device(config)
    calibrated = _calibrate(config, tokenizer, progress) if config.needs_calibration else None
    tokens = calibrated.tokens if calibrated else None
    try:
        plan = make_plan(checkpoint, config, progress)
        progress.begin(len(plan))
        with ContainerWriter(output) as writer, _work_directory(work_dir, output) as scratch:
            tensors = TensorWriter(checkpoint, plan, config, writer, progress)
            model, weights = architecture(checkpoint.arch), CheckpointSource(checkpoint, device)
            inputs, batch = product_inputs(TABLES[checkpoint.arch]), config.calibration.batch
            outer = tensors.write(weights.globals(), None, BEFORE)
            stream = None
            if tokens is not None:
                progress.phase("embedding the calibration text")
                stream = HiddenStates(scratch, len(tokens), tokens.shape[1], checkpoint.dims.width, checkpoint.arch == "rwkv7", device)
                stream.fill(lambda rows: model.embed(outer, torch.from_numpy(tokens[rows]).to(device)), batch)

            for layer in range(checkpoint.dims.layers):
                block = weights.block(layer)
                progress.phase(f"block {layer + 1} of {checkpoint.dims.layers}")
                statistics = collect_block(model.block, block, inputs, stream, batch) if stream else None
                quantised = tensors.write(block, layer, BLOCK, statistics)
                if stream:
                    advance(model.block, quantised, stream, batch)

            head = collect_head(model.head, outer, stream, batch) if stream else None
            tensors.write(outer, None, BEHIND, {"head.x": head} if head else None)
            progress.phase("writing")
            writer.finish(
                model={"arch": checkpoint.arch, "dims": checkpoint.dims},
                quantization_config=_quantization_config(config, plan),
                tokenizer=tokenizer.to_data(),
                provenance=_provenance(checkpoint, calibrated),
            )
    finally:
        progress.end()
    return _result(checkpoint, open_packed(output).ledger()) | {"output": str(output)}


def plan_only(source: str | Path, config: QuantizeConfig | None = None, progress: Progress | None = None) -> dict[str, Any]:
    """The ledger of the file that `quantize` would write, without calibrating. The header's few kilobytes are not in it."""
    config, progress = config or QuantizeConfig(), progress or Progress()
    checkpoint = open_checkpoint(source)
    tokenizer = load_tokenizer(config.tokenizer, checkpoint.dims.vocab).to_data()
    if config.needs_calibration:
        load_documents(_calibration_path(config.calibration))  # a text that is none should not be found out on the day
    try:
        plan = make_plan(checkpoint, config, progress)
    finally:
        progress.end()
    return _result(
        checkpoint, planned_ledger(plan, config.method, sum(padded(array.size, ALIGNMENT) for array in tokenizer.arrays.values()))
    )


@dataclass(frozen=True)
class Calibration:
    """tokens (rows, length); sha256 of those tokens, so that two runs on the same ones can be told from two on different ones."""

    tokens: NDArray[np.int64]
    sha256: str


def _calibrate(config: QuantizeConfig, tokenizer: Tokenizer, progress: Progress) -> Calibration:
    """Raises CalibrationError for a text that is missing, no text, or too short."""
    options = config.calibration
    tokens = calibration_rows(load_documents(_calibration_path(options)), tokenizer, options.rows, options.length, config.seed)
    if len(tokens) < options.rows:
        progress.note(f"the calibration text gives {len(tokens)} rows of {options.length} tokens, not {options.rows}")
    return Calibration(tokens, hashlib.sha256(tokens.astype("<i8").tobytes()).hexdigest())


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
        "group_size": config.plain_grid.group_size if config.code_bits is not None else None,
        "head_bits": config.head_bits,
        "modules_to_not_convert": sorted({t.spec.name for t in plan if t.grid is None}),
        "options": config.to_dict(),
    }


def _provenance(checkpoint: Checkpoint, calibrated: Calibration | None) -> dict[str, Any]:
    return {
        "source": checkpoint.path.name,
        "source_sha256": checkpoint.sha256(),
        "calibration_sha256": calibrated.sha256 if calibrated else None,
        "calibration_tokens": list(calibrated.tokens.shape) if calibrated else None,
        "torch": torch.__version__,
    }


def _result(checkpoint: Checkpoint, ledger: Ledger) -> dict[str, Any]:
    before = checkpoint.summary()
    source = {key: before[key] for key in ("file", "dtype", "file_bytes", "bits_per_weight", "bits_per_weight_file")}
    return {"source": source, **ledger.to_json()}
