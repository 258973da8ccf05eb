"""Selectors: a number for each tensor; those of least value get uniform grids (SQ) first.

registry.py   what a selector is, and all that are registered
gaps.py       how evenly the sorted weights lie: the statistics of Table 6 of RWKVQuant, and its proxies
losses.py     what SQ loses more than VQ at equal stored bits, by four measures of loss
"""

from rwkvquant.selection.selectors import gaps, losses
from rwkvquant.selection.selectors.registry import SELECTORS, Evidence, Selector, register

for _selector in (*gaps.ALL, *losses.ALL):
    register(_selector)

__all__ = ["SELECTORS", "Evidence", "Selector", "register"]
