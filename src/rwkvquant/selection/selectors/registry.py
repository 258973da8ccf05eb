"""What a selector is: a function of what is known of the tensors, with one number or a few for each. The least get SQ first.

register(Selector("range", "the widest gap less the narrowest", of_each(lambda one: (one.statistics["range"],))))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

Score = tuple[float, ...]  # compared from left to right


@dataclass(frozen=True)
class Evidence:
    """What is known of one tensor.

    weights: how many it has. statistics: of its gaps in one reading, by name (selection/proxy.py), with `coarse` for P_c and `fine` for
    P_f. losses: a measure's name -> (loss of SQ, loss of VQ) of the whole tensor, at equal stored bits.
    """

    weights: int
    statistics: Mapping[str, float] = field(default_factory=dict)
    losses: Mapping[str, tuple[float, float]] = field(default_factory=dict)


Scores = Callable[[Mapping[str, Evidence], float], dict[str, Score]]  # tensors by name, C of Algorithm 1 -> their scores


@dataclass(frozen=True)
class Selector:
    """measures: a measure of loss that pass 1 does not take, "mse" or "kl"; "" for none. reads: the options that it uses, of `proxy` and
    those of Algorithm 1.
    """

    name: str
    about: str
    scores: Scores
    measures: str = ""
    reads: tuple[str, ...] = ()


_REGISTERED: dict[str, Selector] = {}
SELECTORS: Mapping[str, Selector] = MappingProxyType(_REGISTERED)  # by name, in the order of registration


def register(selector: Selector) -> None:
    assert selector.name not in _REGISTERED, selector.name
    _REGISTERED[selector.name] = selector


def of_each(score: Callable[[Evidence], float]) -> Scores:
    """The scores of a selector that looks at each tensor alone."""
    return lambda tensors, _: {name: (score(one),) for name, one in tensors.items()}
