"""rwkvquant demo: quantise, compare and generate in a few minutes, on a small model."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from rwkvquant.cli import demo_images
from rwkvquant.cli.output import JsonOption, emit, interval, ledger_table, stderr, stdout, table
from rwkvquant.cli.progress import Counter, quantize_progress
from rwkvquant.cli.quantize import show as show_quantized
from rwkvquant.errors import ConfigError

OURS, OTHERS = "rwkvquant", ("gptq", "rtn")  # at the same bits
ROWS = 32  # of calibration text: a quarter of the default, to keep the demo within a few minutes
PROMPT = "The old man looked out of the window and said"
EMBEDDED = Path(__file__).parent.parent / "assets" / "rwkv7-8m-3.275bpw.safetensors"


def command(
    checkpoint: Annotated[
        str | None, typer.Option(help="The original checkpoint. Without it, the packed model in the package only writes a paragraph.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text to compare on, with --checkpoint.")] = None,
    images: Annotated[str | None, typer.Option(help="For a classifier of images: the set to compare on, with --checkpoint.")] = None,
    calib: Annotated[str | None, typer.Option(help="With --images: the calibration images, another set.")] = None,
    output: Annotated[str | None, typer.Option("--output", "-o", help="Keep the quantised file here.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Compare on this many predicted tokens of the text.")] = 12_288,
    report: Annotated[str | None, typer.Option(help="With --checkpoint: also write a page about it, an .html (docs/report.md).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Quantise, measure, and let the model write a paragraph, or say what is in images."""
    if report is not None:
        from rwkvquant.report.page import require_jinja2
        from rwkvquant.report.sources import require_output

        require_jinja2()  # before the work, not after
        require_output(report, *filter(None, (checkpoint, text, output)))
    if checkpoint is None:
        if any(option is not None for option in (text, output, images, calib, report)):
            raise ConfigError("--text, --images, --calib, --output and --report need --checkpoint")
        result = _write_only()
        emit(result, as_json, lambda: stdout.print(result["text"]))
    elif images is not None or calib is not None:
        if images is None or calib is None or text is not None:
            raise ConfigError("a classifier of images needs --images SET and --calib SET, and no --text")
        result = demo_images.whole_job(checkpoint, images, calib, output, report)
        emit(result, as_json, lambda: demo_images.show(result))
    else:
        result = _whole_job(checkpoint, text, output, max_tokens, report)
        emit(result, as_json, lambda: _show(result))


def _write_only() -> dict[str, Any]:
    from rwkvquant.formats.container import open_packed

    packed = open_packed(str(EMBEDDED))
    stderr.print(ledger_table(f"{EMBEDDED.name}, the packed model in this package", packed.summary()["ledger"]))
    return {"file": str(EMBEDDED), **_paragraph(str(EMBEDDED), None)}


def _whole_job(checkpoint: str, text: str | None, output: str | None, max_tokens: int, report: str | None) -> dict[str, Any]:
    from rwkvquant import CalibrationConfig, QuantizeRequest, quantize
    from rwkvquant.evaluation import divergence, windows
    from rwkvquant.evaluation.load import load_model

    if text is None:
        raise ConfigError("--checkpoint needs --text FILE, a text to compare on")
    next_to_it = Path(checkpoint).with_name("tokenizer.json")
    tokenizer = str(next_to_it) if next_to_it.exists() else None
    base, known = load_model(checkpoint, tokenizer)
    cut = windows.text_windows(text, known, max_tokens=max_tokens)  # a file that is not text is refused before the work, not after
    with tempfile.TemporaryDirectory() as scratch:
        files = {OURS: output or f"{scratch}/{OURS}.safetensors"} | {method: f"{scratch}/{method}.safetensors" for method in OTHERS}
        reports = {}
        for method, file in files.items():
            stderr.print(f"\nquantising with {method}", style="bold")
            request = QuantizeRequest(method=method, tokenizer=tokenizer, calibration=CalibrationConfig(rows=ROWS))
            reports[method] = quantize(checkpoint, file, request, progress=quantize_progress()).to_json()
        with Counter("comparing") as progress:
            comparisons = divergence.compare_many(base, {m: load_model(f, None)[0] for m, f in files.items()}, cut, progress=progress)
        compared = {method: comparison.to_json() for method, comparison in comparisons.items()}
        written = {"original": _paragraph(checkpoint, tokenizer), OURS: _paragraph(files[OURS], None)}
        result = {"quantize": reports, "compare": compared, "text": written}
        if report is not None:
            demo_images.write_report(report, files[OURS], result, checkpoint)
    return result


def _paragraph(file: str, tokenizer: str | None) -> dict[str, Any]:
    from rwkvquant.runtime.sampling import SamplingConfig
    from rwkvquant.runtime.session import load

    model = load(file, tokenizer=tokenizer)
    started = time.perf_counter()
    pieces = list(model.stream(PROMPT, max_tokens=90, sampling=SamplingConfig(temperature=0.8, top_p=0.6, seed=3)))
    return {"text": PROMPT + "".join(pieces), "seconds": time.perf_counter() - started}


def _show(result: dict[str, Any]) -> None:
    report, compared = result["quantize"][OURS], result["compare"]
    stdout.print()
    show_quantized(report)
    stdout.print()
    rows = [["original", "16", f"{compared[OURS]['ppl_base']:.2f}", "", ""]]
    for method, measured in compared.items():
        rows.append(
            [
                method,
                f"{result['quantize'][method]['bits_per_weight']:.3f}",
                f"{measured['ppl_quantized']:.2f}",
                f"{measured['kl_mean']:.4f}{interval(measured['kl_ci95'], '.4f')}",
                f"{100 * measured['top1_agreement']:.1f} %",
            ]
        )
    title = f"against the original, {compared[OURS]['tokens']:,} tokens of text it was not calibrated on"
    stdout.print(table(title, ["", "bits/weight", "perplexity", "KL, nats/token", "same top token"], rows))
    for model, written in result["text"].items():
        stdout.print()
        stdout.print(model, style="bold")
        stdout.print(written["text"])
