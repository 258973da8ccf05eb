"""A histogram for the terminal: one line for each bin, with a mark for the normal distribution of the same mean and deviation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it imports torch
    from rwkvquant.calibration.activations import Distribution

WIDTH = 40  # characters for the longest bar
EIGHTHS = " ▏▎▍▌▋▊▉█"
TITLE = f"{'from':>11} {'to':>11}   {'':<{WIDTH}} {'share':>9} {'normal':>9}"


def histogram(found: Distribution, ascii_only: bool = False) -> list[str]:
    """Lines, the smallest values first; `|` is the normal distribution. Bins are 0.5 standard deviations wide, and wider from 3 on."""
    shares, normal = found.counts / found.count, found.normal / found.count
    longest = max(shares.max(), normal.max())
    low, high = (min(max(_bin(found, at), 0), len(shares) - 1) for at in (found.clip_low, found.clip_high))
    lines = [TITLE]
    for i, (share, expected) in enumerate(zip(shares.tolist(), normal.tolist(), strict=True)):
        drawn = bar(share / longest, expected / longest, ascii_only)
        clip = f"  clip at {found.clip_low:.4g}" if i == low else ""
        clip += f"  clip at {found.clip_high:.4g}" if i == high else ""
        lines.append(f"{found.edges[i]:11.4g} {found.edges[i + 1]:11.4g}   {drawn} {_percent(share)} {_percent(expected)}{clip}")
    return lines


def bar(length: float, mark: float, ascii_only: bool = False) -> str:
    """`length` and `mark` in 0..1 -> WIDTH characters; anything above 0 shows."""
    if ascii_only:
        drawn = list(("#" * (round(length * WIDTH) or int(length > 0))).ljust(WIDTH))
    else:
        eighths = round(8 * length * WIDTH) or int(length > 0)
        whole, rest = divmod(eighths, 8)
        drawn = list((EIGHTHS[-1] * whole + EIGHTHS[rest] * (rest > 0)).ljust(WIDTH))
    at = min(round(mark * WIDTH), WIDTH - 1)
    if at > 0:
        drawn[at] = "|"
    return "".join(drawn)


def _bin(found: Distribution, value: float) -> int:
    return int(found.edges.searchsorted(value, side="right")) - 1


def _percent(share: float) -> str:
    """9 characters; a share too small to show is not 0."""
    return "<0.0001 %" if 0 < share < 1e-6 else f"{100 * share:7.{4 if share < 0.01 else 2}f} %"
