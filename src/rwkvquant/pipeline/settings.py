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
    candidates = recipe.candidates + (recipe.for_images if architecture.modality == "image" else ())
    settings = {}
    for name in names:
        own = _of_input(recipe, name, architecture, tensors)
        settings[name] = own or candidates
        if name in overrides:
            settings[name] = _of_bits(own, overrides[name]) or _of_bits_or_one(recipe, candidates, overrides[name])
            if not settings[name]:
                has = ", ".join(map(str, sorted({setting.codec.code_bits for setting in (*candidates, *own)})))
                raise ConfigError(f"--tensor-bits asks for {overrides[name]} bits in {name}; the method {recipe.method} has {has}")
    return settings


def _of_input(recipe: Recipe, name: str, architecture: Architecture, tensors: Container[str]) -> tuple[Setting, ...]:
    """The candidates that a matrix has because its input is never negative; () if it has none of its own."""
    if not architecture.reads_nonnegative(name, tensors):
        return ()
    return recipe.sparse_input if architecture.reads_mostly_zeros(name, tensors) else recipe.nonnegative_input


def _of_bits(candidates: Sequence[Setting], bits: int) -> tuple[Setting, ...]:
    return tuple(setting for setting in candidates if setting.codec.code_bits == bits)


def _of_bits_or_one(recipe: Recipe, candidates: Sequence[Setting], bits: int) -> tuple[Setting, ...]:
    """Those of `candidates` that have `bits`. If all matrices have one setting, that setting with other bits, if it can have them."""
    if not recipe.one_setting:
        return _of_bits(candidates, bits)
    (setting,) = recipe.candidates
    try:
        return (Setting(setting.method, setting.codec.with_code_bits(bits)),)
    except ConfigError:
        return ()
