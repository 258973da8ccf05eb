"""Names and intervals as text of a Markdown table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def plain(text: Any) -> str:
    """In a table of Markdown."""
    return " ".join(str(text).replace("|", "/").split())


def bracket(pair: Sequence[float] | None, times: float, digits: int = 3) -> str:
    """ " [low, high]", or nothing if there is no interval."""
    return f" [{times * pair[0]:.{digits}f}, {times * pair[1]:.{digits}f}]" if pair else ""
