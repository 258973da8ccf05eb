"""rwkvquant bench: how fast a packed file, or a random model of a released shape, runs on this machine. Needs no torch."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rwkvquant.cli.generate import PagesOption, ThreadsOption
from rwkvquant.cli.output import JsonOption, emit, human_bytes, stderr, stdout, table
from rwkvquant.config import DEFAULT_BITS, DENSITY
from rwkvquant.errors import ConfigError


def command(
    file: Annotated[str | None, typer.Argument(help="A packed file. Leave it out with --random.")] = None,
    random: Annotated[
        str | None,
        typer.Option(
            help="Measure random weights of a released shape: x070-0.1b, 0.4b, 1.5b, 2.9b, 7.2b; x060-1.6b, 3b, 7b, 14b; vrwkv-t, s, b, l."
        ),
    ] = None,
    bits: Annotated[float, typer.Option(help="With --random: bits per weight of projections and LoRA factors.")] = DEFAULT_BITS,
    density: Annotated[
        float,
        typer.Option(help="With --random: how much of what the squared ReLUs give is not zero, 0 to 1; random weights alone have 0.5."),
    ] = DENSITY,
    layouts: Annotated[str, typer.Option(help="With --random: default, rows, uniform, codebook, paper, pairs or dense.")] = "default",
    output: Annotated[str | None, typer.Option("--output", "-o", help="With --random: keep the file under this name.")] = None,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    prefill: Annotated[int, typer.Option(help="Tokens of the prompt.")] = 512,
    rounds: Annotated[int, typer.Option(help="Repetitions; the result is the median.")] = 5,
    batch: Annotated[list[int] | None, typer.Option(help="Also decode this many sequences side by side; may be repeated.")] = None,
    state_bits: Annotated[int, typer.Option(help="12 or 8: decode the sequences of --batch with states in so many bits a value too.")] = 32,
    as_json: JsonOption = False,
) -> None:
    """Measure the speed of decoding and prefill, or of reading images, compared with this machine's memory and int8 speed."""
    if (file is None) == (random is None):
        raise ConfigError("bench needs either a packed file or --random SHAPE")
    from rwkvquant.bench.images import measure_images
    from rwkvquant.bench.measure import measure
    from rwkvquant.formats.container import open_packed
    from rwkvquant.runtime.session import is_packed

    def run(path: str | Path) -> dict[str, Any]:
        if is_packed(path) and open_packed(path).image is not None:
            return measure_images(path, threads=threads, pages=pages, rounds=rounds, batches=batch or (), progress=_say)
        return measure(
            path,
            threads=threads,
            pages=pages,
            prefill_tokens=prefill,
            rounds=rounds,
            batches=batch or (),
            state_bits=state_bits,
            progress=_say,
        )

    if file is not None:
        result = run(file)
    elif output is not None:
        written = _write(output, str(random), layouts, bits, density)
        result = run(output) | written
    else:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"{random}.safetensors"
            written = _write(path, str(random), layouts, bits, density)
            result = run(path) | written
    emit(result, as_json, lambda: (_show_images if "images_s" in result else _show)(result))


def _write(path: str | Path, shape: str, layouts: str, bits: float, density: float) -> dict[str, Any]:
    """Write the file in a separate process, so that its memory is not counted as the engine's."""
    import subprocess
    import sys

    from rwkvquant.bench.shapes import released

    released(shape)  # raises ConfigError for an unknown shape
    _say(f"writing random weights of {shape}")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "rwkvquant.bench.random_model", str(path), shape, layouts, str(bits), str(density)],
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise ConfigError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "the random model could not be written")
    return {"random": shape, "layouts": layouts, "write_seconds": time.perf_counter() - started}


def _say(what: str) -> None:
    stderr.print(what, style="dim")


def _show(result: dict[str, Any]) -> None:
    from rwkvquant.bench.measure import warning

    rows = [
        ["decoding", f"{result['decode_tok_s']:.1f} tokens/s"],
        ["prefill", f"{result['prefill_tok_s']:.0f} tokens/s"],
        *([f"decoding, {batch} side by side", f"{speed:.1f} tokens/s"] for batch, speed in result["batch_tok_s"].items()),
        *(
            [f"the same, states in {result['state_bits']} bits, {batch} side by side", f"{speed:.1f} tokens/s"]
            for batch, speed in result["batch_tok_s_state_bits"].items()
        ),
        ["reads", f"{human_bytes(result['bytes_per_token'])} a token, {result['gb_s']:.1f} GB/s"],
        ["this machine's memory", f"{result['roofline_gb_s']:.1f} GB/s; decoding reaches {100 * result['roofline_share']:.0f} %"],
        [
            "this machine's arithmetic",
            f"{result['roofline_gop_s'] / 1000:.2f} Top/s int8; prefill reaches {100 * result['prefill_share']:.0f} %",
        ],
        *([["density", _density(result["density"])]] if result["density"] else []),
        ["threads", f"{result['threads']}, {result['backend']}"],
        ["measured while reading", result["tuning_line"]],
        ["file", human_bytes(result["file_bytes"])],
        ["pages", result["pages_line"]],
        ["peak memory", human_bytes(result["peak_rss_bytes"]) if result["peak_rss_bytes"] else "unknown"],
        ["logits hash", result["logits_hash"]],
        *([["decoded for products", ", ".join(result["decoded_layouts"])]] if result["decoded_layouts"] else []),
    ]
    stdout.print(table(result.get("random") or result["file"], ["", ""], rows))
    if sentence := warning(result):
        stderr.print(sentence)


def _show_images(result: dict[str, Any]) -> None:
    height, width = result["image_size"]
    rows = [
        [f"images of {height} x {width}", f"{result['images_s']:.1f} a second, one at a time"],
        *([f"{batch} side by side", f"{speed:.1f} a second"] for batch, speed in result["batch_images_s"].items()),
        [
            "this machine's arithmetic",
            f"{result['roofline_gop_s'] / 1000:.2f} Top/s int8; {100 * result['roofline_share']:.0f} % of it is reached",
        ],
        ["threads", f"{result['threads']}, {result['backend']}"],
        ["file", human_bytes(result["file_bytes"])],
        ["pages", result["pages_line"]],
        ["peak memory", human_bytes(result["peak_rss_bytes"]) if result["peak_rss_bytes"] else "unknown"],
        ["features hash", result["features_hash"]],
        *([["decoded for products", ", ".join(result["decoded_layouts"])]] if result["decoded_layouts"] else []),
    ]
    stdout.print(table(result.get("random") or result["file"], ["", ""], rows))


def _density(density: dict[str, Any]) -> str:
    layers = f"{100 * density['least']:.1f} to {100 * density['most']:.1f} % by layer"
    asked = f"\nasked for: {100 * density['asked']:g} %; random weights alone have 50 %" if density["asked"] is not None else ""
    return f"{100 * density['mean']:.1f} % of what the squared ReLUs give is not zero; {layers}{asked}"
