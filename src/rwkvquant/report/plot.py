"""What every plot has: a picture, a sentence that describes it, and the same numbers as a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plot:
    """`svg`: made by `svg.drawing`, so all text in it is escaped. `head`, `rows`: the data as text, for the table next to it.

    `key`: its id on the page, of letters and hyphens.
    """

    key: str
    title: str
    about: str
    svg: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
