"""What single matrices cost the model, measured: each is quantised alone, and the model run on from its layer (calibration/run_on.py).

Quantisers see rows of the calibration text, the divergence is of rows that are kept out. Only settings near the budget are measured:
those between which the loss at the budget's bits is interpolated (evidence.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.calibration.run_on import RunOn
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.matrices import quantize_matrix
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.transforms import input_name
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.recipes import Recipe, Setting

SEEN_ROWS, MEASURED_ROWS = 32, 4
MOST_WEIGHTS = 1 << 28  # all blocks and all their inputs are in memory, and every matrix runs the model several times


def measure_alone(
    checkpoint: Checkpoint,
    recipe: Recipe,
    text: Calibration | None,
    wanted: Mapping[str, Sequence[Setting]],
    device: torch.device,
    progress: Progress,
) -> dict[str, list[float]]:
    """The KL divergence in nats per token for each setting of each matrix, by logical name.

    Raises ConfigError for models of images, and for large ones.
    """
    matrices = {m.name: m for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES}
    if checkpoint.image is not None or text is None:
        raise ConfigError("the selector kl runs models of text; try the selector nats")
    if (size := sum(m.shape[0] * m.shape[1] for m in matrices.values())) > MOST_WEIGHTS:
        raise ConfigError(f"the selector kl is for models of at most {MOST_WEIGHTS} weights; this one has {size}. Try the selector nats")
    source = CheckpointSource(checkpoint, device)
    kept_out = text.rows[len(text.seen) :]
    measuring = RunOn(text.stages, source, (kept_out if len(kept_out) else text.seen)[:MEASURED_ROWS], device)
    seen = RunOn(text.stages, source, text.seen[:SEEN_ROWS], device)
    progress.phase("KL of single matrices", steps=sum(map(len, wanted.values())))
    found: dict[str, list[float]] = {name: [] for name in wanted}
    for layer in range(checkpoint.dims.layers):
        inputs = seen.inputs(layer, checkpoint.architecture)
        hessians = {name: Hessian(statistics.H, torch.float32) for name, statistics in inputs.items()}
        for name in (name for name in wanted if matrices[name].layer == layer):
            matrix = matrices[name]
            W = torch.from_numpy(checkpoint.read_matrix(name)).to(device)
            hessian = hessians[input_name(matrix) or ""]
            for setting in wanted[name]:
                decoded = torch.from_numpy(quantize_matrix(setting, recipe.quantizer, W, hessian).decode()).to(W)
                found[name].append(float(measuring.kl(layer, {matrix.key: decoded}).mean()))
                progress.step()
    return found
