"""The page. The only file of the report that imports jinja2; everything that comes from a file is escaped."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.formats.disk import atomic_write
from rwkvquant.report import frontier, verdict
from rwkvquant.report.activation_plots import activation_plots
from rwkvquant.report.levels import level_plots
from rwkvquant.report.plot import Plot
from rwkvquant.report.positions import position_plot
from rwkvquant.report.proxies import proxy_plot
from rwkvquant.report.sizes import size_plot
from rwkvquant.report.sources import Sources
from rwkvquant.report.tensor_map import tensor_map

MOST_TEXT = 4000  # characters of a continuation
MOST_LISTED = 50  # images whose classes are listed


def require_jinja2() -> None:
    """Raises ConfigError without the package, so that a job of hours can say so before it begins."""
    try:
        import jinja2  # noqa: F401
    except ImportError:
        raise ConfigError("a report needs the jinja2 package; install it with: pip install 'rwkv-hybridquant[report]'") from None


def write_report(sources: Sources, output: str | Path) -> int:
    """Write the page -> its bytes. Raises ConfigError without jinja2, RwkvQuantError where it cannot be written."""
    data = html(sources).encode("utf-8", errors="replace")
    with atomic_write(Path(output), advice="make room and run the command again") as file:
        file.write(data)
    return len(data)


def html(sources: Sources) -> str:
    """The whole page. It needs no other file, no script and no network."""
    require_jinja2()
    import jinja2

    folder = resources.files("rwkvquant.report") / "templates"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    packed = sources.packed
    return template.render(
        style=(folder / "style.css").read_text(encoding="utf-8"),
        title=packed.path.name if packed else "Laboratory",
        subject=verdict.subject(packed) if packed else "Files that were measured under equal conditions.",
        tiles=verdict.tiles(sources) if packed else [],
        plots=plots(sources),
        texts=continuations(sources),
        listed=predictions(sources),
        pictures=sources.pictures,
        conditions=verdict.conditions(sources),
        missing=verdict.missing(sources),
        notes=[*sources.notes, *frontier.undone(sources)],
    )


def plots(sources: Sources) -> list[Plot]:
    """Those that there is data for, in the order of the page."""
    packed = sources.packed
    found: list[Plot | None] = list(frontier.frontier_plots(sources))
    if packed is not None:
        found += [
            tensor_map(packed),
            size_plot(packed),
            position_plot(sources),
            proxy_plot(sources),
            *level_plots(sources),
            *activation_plots(sources),
        ]
    return [plot for plot in found if plot is not None]


def continuations(sources: Sources) -> list[tuple[str, str]]:
    """(model, text) from the JSON of `demo`."""
    texts = sources.get("demo").get("text")
    if not isinstance(texts, Mapping):
        return []
    return [(str(name), str(each.get("text", ""))[:MOST_TEXT]) for name, each in texts.items() if isinstance(each, Mapping)]


def predictions(sources: Sources) -> list[dict[str, str]]:
    """For a classifier of images: what the models say of each, from the JSON of `demo --images`."""
    images = sources.get("demo").get("images")
    rows = images[:MOST_LISTED] if isinstance(images, list) else []
    return [{str(key): _said(value) for key, value in row.items()} for row in rows if isinstance(row, Mapping)]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        share = value.get("probability")
        return f"{value.get('class')} {verdict.percent(share, 0)}" if isinstance(share, float) else str(value.get("class"))
    return "" if value is None else str(value)
