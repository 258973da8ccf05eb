"""rwkvquant report: one HTML page about a packed file, or about cells of the laboratory (docs/report.md)."""

from __future__ import annotations

from typing import Annotated

import typer

from rwkvquant.cli.output import human_bytes, stdout


def command(
    place: Annotated[str, typer.Argument(metavar="FILE|DIR", help="A packed file, a folder with one, or a work directory of `lab run`.")],
    results: Annotated[
        list[str] | None, typer.Argument(metavar="JSON", help="What quantize, compare, eval, bench or demo printed with --json.")
    ] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="The page to write.")] = "report.html",
    original: Annotated[
        str | None, typer.Option(help="The checkpoint before it was quantised, to show its weights next to the stored ones.")
    ] = None,
) -> None:
    """Write one page: what a packed file is, and what quantising cost and gave. JSON files next to it are read too. Measures nothing."""
    from rwkvquant.report.page import require_jinja2, write_report
    from rwkvquant.report.sources import gather, require_output

    require_jinja2()
    require_output(output, place, *(results or ()), *([original] if original else ()))
    size = write_report(gather(place, results or (), original), output)
    stdout.print(f"{output}: {human_bytes(size)}")
