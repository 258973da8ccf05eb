"""P_c and P_f of every matrix, with the thresholds of Algorithm 1 and the codec that was chosen (RWKVQuant, arXiv:2505.03803)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rwkvquant.report.kinds import number
from rwkvquant.report.plot import Plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.svg import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Scale, axes, drawing, legend, line, mark, scale_for, text
from rwkvquant.report.tensor_map import codec_of
from rwkvquant.selection.algorithm1 import USUAL, Thresholds, percentile_thresholds
from rwkvquant.selection.proxy import ORDERS

FINE_ORDER = 4  # K of the paper, and of files that do not say it


def proxy_plot(sources: Sources) -> Plot | None:
    """From plan.json of the work directory; None without it, or where no matrix has proxies."""
    packed, state = sources.packed, sources.get("plan").get("state", {})
    if packed is None:
        return None
    chooser = _chooser(packed.quantization_config)
    reading, rule = str(chooser.get("proxy", "paper")), str(chooser.get("rule", "unknown"))
    order = chooser.get("order", FINE_ORDER)
    order = order if order in ORDERS else FINE_ORDER
    codecs = {item.name: codec_of(item) for item in packed.ledger().items}
    found = {
        name: (float(each["proxies"][reading]["coarse"]), float(each["proxies"][reading]["fine"][order - 2]))
        for name, each in (state.get("tensors") or {}).items()
        if reading in each["proxies"] and name in codecs
    }
    if not found or not any(p_c > 0 and p_f > 0 for p_c, p_f in found.values()):
        return None
    shares = [_share(chooser.get(name), usual) for name, usual in (("coarse_share", 0.5), ("fine_share", 0.2))]
    fixed = rule == "fixed"
    limits = _fixed(chooser) if fixed else percentile_thresholds(found, *shares)
    used = rule in ("algorithm1", "fixed")
    return _plot(found, codecs, limits, reading, used, fixed)


def _share(value: Any, usual: float) -> float:
    """What the file keeps, if it is a share."""
    return float(value) if number(value) and 0 <= value <= 1 else usual


def _fixed(chooser: Mapping[str, Any]) -> Thresholds:
    """What the file keeps; the paper's in files that do not say it."""
    return Thresholds(_limit(chooser.get("tau_c"), USUAL.coarse), _limit(chooser.get("tau_f"), USUAL.fine))


def _limit(value: Any, usual: float) -> float:
    return float(value) if number(value) and value >= 0 else usual


def _chooser(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The chooser of the recipe that the file keeps; files of earlier versions have the request alone."""
    recipe, options = config.get("recipe"), config.get("options")
    chooser = recipe.get("chooser") if isinstance(recipe, Mapping) else None
    if isinstance(chooser, Mapping):
        return chooser
    kept = options if isinstance(options, Mapping) else {}
    return {"rule": kept.get("choice"), "proxy": kept.get("proxy") or "paper"}


def _plot(
    found: Mapping[str, tuple[float, float]], codecs: Mapping[str, str], limits: Thresholds, reading: str, used: bool, fixed: bool
) -> Plot:
    kinds = list(dict.fromkeys(codecs[name] for name in found))
    x = scale_for([p_c for p_c, _ in found.values()] + [limits.coarse], LEFT, WIDTH - RIGHT)
    y = scale_for([p_f for _, p_f in found.values()] + [limits.fine], HEIGHT - BOTTOM, TOP + 24, log=True)
    parts = axes(x, y, f"P_c, reading “{reading}”", "P_f")
    parts += _limits(limits, x, y)
    for name, (p_c, p_f) in found.items():
        at = y(p_f) if p_f > 0 else y.start
        parts.append(mark(x(p_c), at, kinds.index(codecs[name]), f"{name}: P_c {p_c:.4g}, P_f {p_f:.4g}, {codecs[name]}"))
    parts += legend(kinds, LEFT + 20, TOP + 40)
    source = "fixed thresholds" if fixed else "the thresholds of Algorithm 1"
    inside = sum(p_c < limits.coarse and p_f < limits.fine for p_c, p_f in found.values())
    about = (
        f"{len(found)} matrices; {inside} are below {source}, P_c {limits.coarse:.4g} and P_f {limits.fine:.4g} (dashed), where the paper "
        f"takes a uniform grid. {'This file was chosen by them.' if used else 'This file was chosen by measured errors, not by them.'}"
    )
    title = "How evenly the weights of each matrix are spread"
    rows = tuple((name, f"{p_c:.6g}", f"{p_f:.6g}", codecs[name]) for name, (p_c, p_f) in found.items())
    return Plot("proxies", title, about, drawing("proxies", title, about, parts), ("tensor", "P_c", "P_f", "codec"), rows)


def _limits(limits: Thresholds, x: Scale, y: Scale) -> list[str]:
    parts = [line(x(limits.coarse), y.start, x(limits.coarse), y.end, "limit"), text(x(limits.coarse) + 4, TOP + 14, "τ_c", name="tick")]
    if limits.fine > 0:
        parts += [line(x.start, y(limits.fine), x.end, y(limits.fine), "limit"), text(x.end - 4, y(limits.fine) - 5, "τ_f", "end", "tick")]
    return parts
