"""The settings a method may give a matrix: which quantiser, and what it rounds to.

`uniform` and `codebook` are the papers' SQ and VQ. Budgets choose among many settings, `code_bits` leaves one.
"""

from __future__ import annotations

from collections.abc import Sequence

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.checkpoints import Checkpoint
from rwkvquant.codecs import CodebookConfig, CodecConfig, GridConfig, PairConfig
from rwkvquant.config import GROUP_SIZES, QuantizeConfig
from rwkvquant.errors import ConfigError
from rwkvquant.quantizers import methods_for
from rwkvquant.recipes.setting import Setting
from rwkvquant.selection.policy import override_bits

UNIFORM_BITS = range(2, 9)
LOW_BUDGET = 4.5  # budgets up to it share their candidates, so that one pass 1 serves them all

# What a budget may choose from. Codebooks of 4 bits and plain ones for 4 rows were tried: grids of the same bits, or compressed
# codebooks, lose less (docs/methods/selection.md).
CODEBOOKS = (
    CodebookConfig(2, 16),
    CodebookConfig(2, 8),
    CodebookConfig(2, 4),
    CodebookConfig(3, 16),
    CodebookConfig(3, 8),
    CodebookConfig(3, 4, 4),
    CodebookConfig(3, 2, 4),
)
WIDE_CODEBOOKS = (CodebookConfig(4, 16), CodebookConfig(4, 8))  # for budgets that 3 bits cannot use up


def plain_codec(config: QuantizeConfig) -> CodecConfig:
    """What every matrix is stored as where `code_bits` is given."""
    assert config.code_bits is not None
    if config.method in ("rtn", "gptq"):
        scale_bits = 16 if config.style == "paper" else 8
        return GridConfig(config.code_bits, config.group_size or 64, bool(config.symmetric), config.scale_bits or scale_bits)
    if config.codebook_dim == 2:
        return PairConfig(2 * config.code_bits)
    return CodebookConfig(config.code_bits, (config.codebook_size or 128) // 32, config.codebook_rank or 0)


def settings_of(config: QuantizeConfig) -> list[Setting]:
    """Everything that the options allow a matrix to become, uniform grids first."""
    if config.code_bits is not None:
        return [Setting(config.method, plain_codec(config))]
    if config.method == "paper":  # as Algorithm 1 implies: docs/methods/selection.md
        return [Setting("gptq", GridConfig(3, 32, scale_bits=16)), Setting("gptvq", CodebookConfig(3, 4, 4))]
    if config.method == "readme":
        return [Setting("gptq", GridConfig(3, 64, scale_bits=16)), Setting("gptvq", CodebookConfig(3, 2, 4))]
    uniform, codebook = ("gptq", "gptvq") if config.method == "rwkvquant" else (config.method, config.method)
    found = []
    if uniform in methods_for(GridConfig):
        scale_bits = 16 if config.style == "paper" else 8
        near = UNIFORM_BITS if config.method != "rwkvquant" else _bits_near(config)
        grids = [GridConfig(bits, group, False, scale_bits) for bits in near for group in GROUP_SIZES[::-1]]
        found += [Setting(uniform, grid) for grid in grids]
    if codebook in methods_for(CodebookConfig):
        high = config.bits is not None and config.bits > LOW_BUDGET
        found += [Setting(codebook, codec) for codec in (*CODEBOOKS, *(WIDE_CODEBOOKS if high or config.method != "rwkvquant" else ()))]
    return found


def _bits_near(config: QuantizeConfig) -> range:
    """Grids that a budget may use, and those that --tensor-bits may ask for: pass 1 has no time to try them all."""
    if config.tensor_bits:
        return UNIFORM_BITS
    return range(2, 7) if config.bits is None or config.bits <= LOW_BUDGET else range(4, 9)


def quantized_shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    """(out, in) of each projection and LoRA factor, by logical name: what a setting is chosen for."""
    return {matrix.name: matrix.shape for matrix in checkpoint.logical_matrices() if matrix.spec.role in QUANTIZED_ROLES}


def allowed_settings(config: QuantizeConfig, names: Sequence[str]) -> dict[str, list[Setting]]:
    """The settings of each matrix, after --tensor-bits. Raises ConfigError for bits that the method has no setting for."""
    settings = settings_of(config)
    overrides = override_bits(config.tensor_bits, names)
    found = {}
    for name in names:
        found[name] = settings
        if name in overrides:
            found[name] = _of_bits(settings, config, overrides[name])
            if not found[name]:
                has = ", ".join(map(str, sorted({setting.codec.code_bits for setting in settings})))
                raise ConfigError(f"--tensor-bits asks for {overrides[name]} bits in {name}; the method {config.method} has {has}")
    return found


def _of_bits(settings: list[Setting], config: QuantizeConfig, bits: int) -> list[Setting]:
    """Those of `bits`; one setting for all matrices only changes its bits, where it can."""
    if config.code_bits is None:
        return [setting for setting in settings if setting.codec.code_bits == bits]
    try:
        return [Setting(settings[0].method, settings[0].codec.with_code_bits(bits))]
    except ConfigError:
        return []
