"""rwkvquant lab run, rwkvquant lab tables: many quantisations, measured under equal conditions (docs/laboratory.md)."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvquant.cli.cluster import ClusterOption, cluster_at
from rwkvquant.cli.output import JsonOption, emit, stderr, stdout
from rwkvquant.cli.progress import Counter
from rwkvquant.cli.signals import finish_first
from rwkvquant.errors import ConfigError, RwkvQuantError
from rwkvquant.pipeline.progress import Progress

if TYPE_CHECKING:
    from rwkvquant.lab.spec import LabModel

app = typer.Typer(help="Measure many quantisations under equal conditions, and make tables of them.", no_args_is_help=True)
WorkDir = Annotated[str, typer.Option(help="Folder for the cells; finished ones are never made again.")]


@app.command("run")
def run(
    spec: Annotated[str, typer.Argument(help="A specification, a .yaml (docs/laboratory.md).")],
    work_dir: WorkDir,
    model: Annotated[
        list[str] | None,
        typer.Option(help="NAME=CHECKPOINT or NAME=CHECKPOINT,TOKENIZER in place of the models of the specification. May be repeated."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text to measure on, in place of that of the specification.")] = None,
    calib: Annotated[str | None, typer.Option(help="Calibration text, for requests that name none themselves.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Measure on so many tokens from the start of the text.", min=1)] = None,
    files: Annotated[str | None, typer.Option(help="Folder of the files that other tools made (requests with a file).")] = None,
    cluster: ClusterOption = None,
    as_json: JsonOption = False,
) -> None:
    """Quantise and measure every cell of a specification. A cell that fails is recorded, and the others go on."""
    from rwkvquant.lab.spec import Replacements, read_spec

    instead = Replacements(tuple(map(_model, model or ())), text, calib, max_tokens, files)
    wanted = read_spec(spec, instead)
    from rwkvquant.lab.run import run_spec

    with (
        cluster_at(cluster, Said()) if cluster is not None else nullcontext() as workers,
        finish_first() as stop,
        Counter("windows" if workers is None else "cells") as progress,
    ):
        result = run_spec(wanted, work_dir, say=stderr.print, stop=stop, progress=progress, cluster=workers)
    done = f"{result.cells} cells: {result.kept} were done before, {result.done} are done now, {len(result.failed)} failed"
    emit(dataclasses.asdict(result), as_json, lambda: stdout.print(done))
    if result.failed:
        raise RwkvQuantError(
            f"{len(result.failed)} of {result.cells} cells failed; the first: {result.failed[0]}. All are in {Path(work_dir) / 'cells'}"
        )


@app.command("tables")
def tables(
    work_dir: Annotated[str, typer.Argument(help="The work directory of `lab run`.")],
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Also draw each table (needs matplotlib).")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write a Markdown and a CSV table, and a plot, for each specification that was run."""
    from rwkvquant.lab.rows import table_rows
    from rwkvquant.lab.store import Store
    from rwkvquant.lab.tables import write_tables

    written = write_tables(work_dir)
    store, folder = Store(Path(work_dir)), Path(work_dir) / "tables"
    names = [f"{name}.{kind}" for name in written for kind in ("md", "csv")]
    if plot:
        try:
            from rwkvquant.lab.figure import save_figure, save_positions
        except ImportError:
            raise ConfigError(
                "the plot needs matplotlib: pip install 'rwkv-hybridquant[lab]'; or give --no-plot. The tables are written"
            ) from None
        for name, spec in store.specs().items():
            rows = table_rows(store, spec)
            for file, save in ((f"{name}.svg", save_figure), (f"{name}-positions.svg", save_positions)):
                names += [file] if save(spec, rows, folder / file) else []
    emit({"files": [str(folder / name) for name in names]}, as_json, lambda: stdout.print("\n".join(written.values())))


@app.command("claims")
def claims(
    work_dir: Annotated[str, typer.Argument(help="The work directory of `lab run`.")],
    claims: Annotated[str, typer.Argument(help="A file of claims, a .yaml (docs/laboratory.md).")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="Write the Markdown here; else it is printed.")] = None,
) -> None:
    """Judge claims by finished cells."""
    from rwkvquant.formats.disk import replace_file
    from rwkvquant.lab.claims import claims_text

    text = claims_text(work_dir, claims)
    if output is None:
        stdout.print(text)
    else:
        replace_file(Path(output), text.encode())


class Said(Progress):
    """Says what is noted about workers."""

    def note(self, sentence: str) -> None:
        stderr.print(f"note: {sentence}")


def _model(given: str) -> LabModel:
    from rwkvquant.lab.spec import LabModel

    name, equals, files = given.partition("=")
    checkpoint, _, tokenizer = files.partition(",")
    if not (name and equals and checkpoint):
        raise ConfigError(f"--model is NAME=CHECKPOINT or NAME=CHECKPOINT,TOKENIZER; got {given!r}")
    return LabModel(name, checkpoint, tokenizer or None)
