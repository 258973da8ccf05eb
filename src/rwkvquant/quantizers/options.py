"""The options of all quantisers. NumPy only, so that recipes can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvquant.config import CLIP_SEARCHES, STYLES, require
from rwkvquant.errors import ConfigError


@dataclass(frozen=True)
class QuantizerOptions:
    """style: "tuned" is our way, "paper" is how RWKVQuant ran a method. damping: added to diag(H), as a fraction of its mean.

    clip_search: which error the search for a grid's range makes least. act_order: round the columns by falling diag(H), with static
    groups. refined: after the first choice of codes, update scales or codebooks and codes in turn. That gives 5 to 10 % less loss for
    several times the time, in the tuned style only.
    """

    style: str = "tuned"
    clip_search: str = "hessian"
    act_order: bool = True
    damping: float = 0.05
    refined: bool = True

    def __post_init__(self) -> None:
        require("style", self.style, STYLES)
        require("clip_search", self.clip_search, CLIP_SEARCHES)
        if not 0 <= self.damping <= 10:
            raise ConfigError(f"damping must lie in 0 to 10; got {self.damping}")

    @property
    def tuned(self) -> bool:
        return self.style == "tuned"
