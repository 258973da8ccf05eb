"""The settings that each matrix may take: the recipe's candidates, after --tensor-bits."""

from __future__ import annotations

from collections.abc import Container, Sequence

from rwkvquant.architectures import QUANTIZED_ROLES, Architecture
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.recipes import Recipe, Setting
from rwkvquant.selection.policy import override_bits


def quantized_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """(out, in) of each projection and LoRA factor, by logical name: what a setting is chosen for."""
    return {matrix.name: matrix.shape for matrix in checkpoint.logical_matrices() if matrix.spec.role in QUANTIZED_ROLES}


def allowed_settings(
    recipe: Recipe, names: Sequence[str], architecture: Architecture, tensors: Container[str] = ()
) -> dict[str, tuple[Setting, ...]]:
    """The settings of each matrix of `names`. `tensors`: all names of the model, which may say more about the matrices' inputs.

    Raises ConfigError for bits that no candidate of the recipe has.
    """
    overrides = override_bits(recipe.tensor_bits, names)
    settings = {}
    for name in names:
        own = recipe.sparse_input if architecture.reads_nonnegative(name, tensors) else ()
        settings[name] = own or recipe.candidates
        if name in overrides:
            settings[name] = _of_bits(own, overrides[name]) or _of_bits_or_one(recipe, overrides[name])
            if not settings[name]:
                has = ", ".join(map(str, sorted({setting.codec.code_bits for setting in (*recipe.candidates, *own)})))
                raise ConfigError(f"--tensor-bits asks for {overrides[name]} bits in {name}; the method {recipe.method} has {has}")
    return settings


def _of_bits(candidates: Sequence[Setting], bits: int) -> tuple[Setting, ...]:
    return tuple(setting for setting in candidates if setting.codec.code_bits == bits)


def _of_bits_or_one(recipe: Recipe, bits: int) -> tuple[Setting, ...]:
    """The candidates of `bits`. If all matrices have one setting, that setting with other bits, if it can have them."""
    if not recipe.one_setting:
        return _of_bits(recipe.candidates, bits)
    (setting,) = recipe.candidates
    try:
        return (Setting(setting.method, setting.codec.with_code_bits(bits)),)
    except ConfigError:
        return ()
