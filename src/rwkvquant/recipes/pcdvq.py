"""PCDVQ: eight neighbouring weights are a direction and a magnitude (arXiv:2506.05432), 2.0 to 2.5 bits a weight.

The paper rotates the input, so that weights are normal, and mentions no error feedback: that is the style paper. Feedback, levels for
projections and fitted scales are ours.
"""

from __future__ import annotations

from rwkvquant.codecs import PolarConfig
from rwkvquant.kernels.directions import BITS, KINDS
from rwkvquant.recipes.method import Method, Option, Said
from rwkvquant.recipes.options import ACT_ORDER, BY_STYLE, CLIP_SEARCH, COMMON, FALL_BACK, STYLE, YES_NO, shared
from rwkvquant.recipes.recipe import Chooser, Recipe
from rwkvquant.recipes.setting import Setting

OPTIONS = (
    Option("direction_bits", BITS, "Bits of the direction of 8 weights", 14),
    Option("magnitude_bits", range(1, 5), "Bits of their magnitude; both together are 16, 17, 18 or 20", 2),
    Option("directions", KINDS, "The codebook of directions: points of the lattice E8, or random ones for comparison", "e8"),
    Option("feedback", YES_NO, "Feed the errors of 8 columns back to the later ones (default: yes, in the style paper no)", BY_STYLE),
    Option("rotation", YES_NO, "Rotate the input of every matrix by a Hadamard matrix with random signs", True),
)


def build(said: Said) -> Recipe:
    codec = PolarConfig(said.direction_bits, said.magnitude_bits, said.directions)
    calibrated = said.feedback or said.clip_search == "hessian" or said.correction > 0 or said.vector_codebook is not None
    return Recipe(
        candidates=(Setting("ldlq" if said.feedback else "pcdvq", codec),),
        chooser=Chooser(),
        transform="hadamard" if said.rotation else "none",
        calibrated=calibrated,
        **shared(said, "gptq" if said.feedback else "rtn"),
    )


METHOD = Method(
    "pcdvq",
    "directions and magnitudes of 8 weights, of rotated inputs",
    (*OPTIONS, STYLE, CLIP_SEARCH, ACT_ORDER, FALL_BACK, *COMMON),
    build,
)
