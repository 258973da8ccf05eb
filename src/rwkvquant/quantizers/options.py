"""How quantisers work, one set of options for all of them; NumPy only, so that recipes can be read without torch."""

from __future__ import annotations

from dataclasses import dataclass

from rwkvquant.config import CLIP_SEARCHES, STYLES, require
from rwkvquant.errors import ConfigError


@dataclass(frozen=True)
class QuantizerOptions:
    """style: "tuned", as we would, or "paper", as RWKVQuant ran a method. damping: added to diag(H), as a fraction of its mean.

    clip_search: which error a grid's range is searched for. act_order: columns by falling diag(H), with static groups. refined: scales or
    codebooks and codes in turn after the first choice of codes, in the tuned style: 5 to 10 % less loss, for several times the time.
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
