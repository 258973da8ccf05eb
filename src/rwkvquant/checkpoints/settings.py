"""The settings of a transformer, made into the small tensors that its architecture names (architectures/llama.py).

They are in config.json next to the weights, or in the header of a GGUF file, which gguf_file.py gives with the same keys. A file that was
exported from a packed one has them as tensors already. Nothing is believed: a setting of another kind or out of range is refused, and so
is one that would change the forward and is not known here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Role
from rwkvquant.architectures.llama import EPSILON, FREQUENCIES, SCORE_SCALE
from rwkvquant.checkpoints.tensor_info import TensorInfo
from rwkvquant.checkpoints.tied_head import WithHead
from rwkvquant.checkpoints.unpickler import shown
from rwkvquant.errors import CheckpointError

Array = NDArray[np.float32]
MAX_HEADS, MAX_HEAD_SIZE = 4096, 4096


class WithSettings:
    """`file`, and the settings that its architecture has. `made`: the names of the tensors that are not in the file.

    `config` reads the configuration; it is called only for an architecture with settings. Raises CheckpointError if the configuration is
    missing (None), has a value out of range, or says something that this forward does not do.
    """

    def __init__(self, file: WithHead, config: Callable[[], Mapping[str, Any] | None]) -> None:
        self._file, self._made = file, _missing_settings(file, config)
        self.head, self.layout, self.format = file.head, file.layout, file.format
        self.tensors = file.tensors | {name: TensorInfo(name, "float32", values.shape) for name, values in self._made.items()}

    @property
    def made(self) -> frozenset[str]:
        return frozenset(self._made)

    def read(self, name: str) -> Array:
        return self._made[name].copy() if name in self._made else self._file.read(name)


def _missing_settings(file: WithHead, config: Callable[[], Mapping[str, Any] | None]) -> dict[str, Array]:
    architecture = file.file.architecture
    if not any(spec.role is Role.SETTING for spec in architecture.by_key.values()) or not architecture.is_marked_in(file.tensors):
        return {}
    layers = 1 + max(int(block or 0) for block, _ in map(architecture.split, file.tensors))
    missing = {name: spec.name for name, spec, _ in architecture.specs(layers) if spec.role is Role.SETTING and name not in file.tensors}
    if not missing:
        return {}
    said = config()
    if said is None:
        raise CheckpointError(
            f"the heads, RoPE and epsilon of {architecture.title} are not in its tensors; put the model's config.json next to them"
        )
    values = settings_of(said)
    return {name: values[key if key in values else EPSILON] for name, key in missing.items()}


def settings_of(config: Mapping[str, Any]) -> dict[str, Array]:
    """The values of each setting, from a config of `LlamaForCausalLM`. Raises CheckpointError."""
    heads = _whole(config, "num_attention_heads", MAX_HEADS)
    size = config.get("head_dim") or _whole(config, "hidden_size", 1 << 24) // heads
    if type(size) is not int or not 2 <= size <= MAX_HEAD_SIZE or size % 2:
        raise CheckpointError(f"head_dim of config.json must be an even number from 2 to {MAX_HEAD_SIZE}; got {shown(str(size))}")
    for key, known in {"hidden_act": ("silu",), "model_type": ("llama",), "sliding_window": (None,)}.items():
        if key in config and config[key] not in known:
            raise CheckpointError(f"{key} of config.json must be {known[0]} for LLaMA; got {shown(str(config[key]))}")
    epsilon = _positive(config, "rms_norm_eps", 1.0, 1e-6)
    frequencies = np.tile(_frequencies(config, size), 2)
    return {
        EPSILON: np.array([epsilon], np.float32),
        FREQUENCIES: frequencies,
        SCORE_SCALE: np.full(heads, 1 / math.sqrt(size), np.float32),
    }


def _frequencies(config: Mapping[str, Any], size: int) -> Array:
    """RoPE's angle of each of size / 2 pairs of channels: theta^(-2i / size), perhaps scaled for long contexts."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise CheckpointError(f"the RoPE parameters of config.json must be an object; got a {type(rope).__name__}")
    theta = _positive(rope if "rope_theta" in rope else config, "rope_theta", 1e12, 10000.0)
    plain = (1.0 / theta ** (np.arange(0, size, 2, dtype=np.float32) / np.float32(size))).astype(np.float32)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return plain
    factor = _positive(rope, "factor", 1e6)
    if kind == "linear":
        return (plain / factor).astype(np.float32)
    if kind != "llama3":
        raise CheckpointError(f"the kinds of RoPE that can be read are default, linear and llama3; config.json says {shown(str(kind))}")
    low, high = _positive(rope, "low_freq_factor", 1e6), _positive(rope, "high_freq_factor", 1e6)
    context = _positive(rope, "original_max_position_embeddings", 1e9)
    if not low < high:
        raise CheckpointError(f"low_freq_factor of config.json must be below high_freq_factor; got {low} and {high}")
    turns = context * plain.astype(np.float64) / (2 * math.pi)  # over the whole of the old context
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (plain * (smooth + (1 - smooth) / factor)).astype(np.float32)


def _whole(config: Mapping[str, Any], key: str, most: int) -> int:
    value = config.get(key)
    if type(value) is not int or not 1 <= value <= most:
        raise CheckpointError(f"{key} of config.json must be a whole number from 1 to {most}; got {shown(str(value))}")
    return value


def _positive(config: Mapping[str, Any], key: str, most: float, default: float | None = None) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not 0 < value <= most:  # NaN is not above 0
        raise CheckpointError(f"{key} of config.json must be a number above 0 and at most {most:g}; got {shown(str(value))}")
    return float(value)
