"""What gptvq and kmeans share: a budget that chooses among codebooks of several sizes, or one kind of codebook for every matrix."""

from __future__ import annotations

from rwkvquant.codecs import CodebookConfig, CodecConfig, PairConfig
from rwkvquant.errors import ConfigError
from rwkvquant.recipes.candidates import codebooks
from rwkvquant.recipes.method import Said
from rwkvquant.recipes.options import BUDGET, CODEBOOK, CODEBOOK_CODE_BITS, COMMON, STYLE, budget, one_code
from rwkvquant.recipes.recipe import Chooser
from rwkvquant.recipes.setting import Setting

OPTIONS = (BUDGET, CODEBOOK_CODE_BITS, STYLE, *CODEBOOK, *COMMON)


def candidates(said: Said, quantizer: str) -> tuple[tuple[Setting, ...], Chooser]:
    bits = one_code(said, "codebook_size", "codebook_rank", "codebook_dim")
    if bits is None:
        return codebooks(quantizer, wide=True), budget(said)
    return (Setting(quantizer, _codec(said, bits)),), Chooser()


def _codec(said: Said, bits: int) -> CodecConfig:
    if said.codebook_dim == 2:
        if said.given("codebook_size", "codebook_rank"):
            raise ConfigError(
                "codebook_size and codebook_rank go with codebook_dim 1, not 2: codebooks of pairs have one size and are not compressed"
            )
        if said.style == "paper":
            raise ConfigError("codebook_dim 2 goes with the style tuned; the paper's codebooks are of dimension 1")
        return PairConfig(2 * bits)
    if said.codebook_size == 64 and bits == 4:
        raise ConfigError("codebook_size must be at least 128 where code_bits are 4; got 64")
    if said.codebook_rank >= 2**bits:
        raise ConfigError(f"codebook_rank must be below the {2**bits} centroids of {bits} bits; got {said.codebook_rank}")
    return CodebookConfig(bits, said.codebook_size // 32, said.codebook_rank)
