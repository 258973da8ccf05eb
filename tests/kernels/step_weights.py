"""A state dict of torch tensors in the form that the NumPy steps take, without the checkpoint reader."""

from __future__ import annotations

import numpy as np
import torch

from rwkvquant.architectures import ARCHITECTURES, Dims

TRANSPOSED = {spec.name for each in ARCHITECTURES.values() for spec in each.table if spec.transposed}


def step_weights(state_dict: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Matrices (out, in), vectors flat, float32."""
    weights = {}
    for name, tensor in state_dict.items():
        values = tensor.float().numpy()
        if name.startswith("blocks.") and name.split(".", 2)[2] in TRANSPOSED:
            values = values.swapaxes(-1, -2)
        weights[name] = values.ravel() if values.shape[:2] == (1, 1) else np.ascontiguousarray(values)
    return weights


def state_sizes(weights: dict[str, np.ndarray]) -> Dims:
    """The sizes that RecurrentState.zeros needs."""
    by_head = next(weights[name] for name in ("blocks.0.att.r_k", "blocks.0.att.time_faaaa") if name in weights)
    vocab, width = weights["emb.weight"].shape
    layers = sum(name.endswith("ln1.weight") for name in weights)
    return Dims(layers, width, len(weights["blocks.0.ffn.key.weight"]), vocab, *by_head.shape)
