"""rwkvquant quantize: one checkpoint in, one packed file out."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from rwkvquant.cli.cluster import ClusterOption, cluster_at
from rwkvquant.cli.evaluate import AdapterOption
from rwkvquant.cli.output import JsonOption, emit, human_bytes, ledger_table, stdout, table
from rwkvquant.cli.progress import quantize_progress
from rwkvquant.cli.signals import finish_first
from rwkvquant.config import FORWARD_DTYPES, RESUME, CalibrationConfig, QuantizeRequest
from rwkvquant.recipes import METHODS, Option, recipe_for

_DEFAULT = QuantizeRequest()


class Command(TyperCommand):
    """Its help is made when it is shown, from the options of all registered methods."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        for param in self.params:
            if text := help_of(str(param.name)):
                param.help = text  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)


def help_of(name: str) -> str | None:
    """What an option means, its values and its default. Methods are named where they differ, or where not all have the option."""
    if name == "method":
        return "; ".join(f"{method.name}: {method.about}" for method in METHODS.values())
    if name == "own_options":
        names = dict.fromkeys(option.name for method in METHODS.values() for option in method.options)
        own = [f"{each}: {help_of(each)}" for each in names if not hasattr(_DEFAULT, each)]
        return " ".join(["NAME=VALUE for options that only a method of another package has. May be repeated.", *own])
    owners = {method.name: option for method in METHODS.values() if (option := method.option(name))}
    sentences = []
    for text in dict.fromkeys(option.help for option in owners.values()):
        having = {method: option for method, option in owners.items() if option.help == text}
        of = "" if len(having) == len(METHODS) else f"[{', '.join(having)}] "
        values = _by_method({method: option.values for method, option in having.items()})
        usual = _by_method({method: _usual(option) for method, option in having.items() if option.default is not None})
        sentences.append(f"{of}{text}: {values}." + (f" Default: {usual}." if usual else ""))
    return " ".join(sentences) or None


def _by_method(words: dict[str, str]) -> str:
    """ "0.5 (rwkvquant), 0.0 (gptq, rtn)", or the words alone if all methods have the same."""
    if len(set(words.values())) < 2:
        return next(iter(words.values()), "")
    return ", ".join(f"{word} ({', '.join(m for m in words if words[m] == word)})" for word in dict.fromkeys(words.values()))


def _usual(option: Option) -> str:
    if isinstance(option.default, dict):
        return ", ".join(f"{_word(value)} when {style}" for style, value in option.default.items())
    return _word(option.default)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def _one_of(values: tuple[Any, ...]) -> str:
    return " | ".join(str(value) for value in values)


def command(
    checkpoint: Annotated[
        str, typer.Argument(help="RWKV-6 (x060), RWKV-7 (x070), Vision-RWKV: a .pth, safetensors or Hugging Face directory.")
    ],
    output: Annotated[str | None, typer.Option("--output", "-o", help="The packed file to write, a .safetensors.")] = None,
    bits: Annotated[float | None, typer.Option("--bits", "-b")] = None,
    code_bits: Annotated[int | None, typer.Option()] = None,
    method: Annotated[str, typer.Option()] = _DEFAULT.method,
    style: Annotated[str | None, typer.Option()] = None,
    choice: Annotated[str | None, typer.Option()] = None,
    proxy: Annotated[str | None, typer.Option()] = None,
    group_size: Annotated[int | None, typer.Option()] = None,
    symmetric: Annotated[bool | None, typer.Option("--symmetric/--asymmetric")] = None,
    scale_bits: Annotated[int | None, typer.Option()] = None,
    codebook_size: Annotated[int | None, typer.Option()] = None,
    codebook_rank: Annotated[int | None, typer.Option()] = None,
    codebook_dim: Annotated[int | None, typer.Option()] = None,
    clip_search: Annotated[str | None, typer.Option()] = None,
    act_order: Annotated[bool | None, typer.Option("--act-order/--no-act-order")] = None,
    damping: Annotated[float | None, typer.Option()] = None,
    correction: Annotated[float | None, typer.Option()] = None,
    fall_back: Annotated[bool | None, typer.Option("--fall-back/--no-fall-back")] = None,
    head_bits: Annotated[int | None, typer.Option()] = None,
    emb_bits: Annotated[int | None, typer.Option()] = None,
    vector_bits: Annotated[int | None, typer.Option()] = None,
    vector_codebook: Annotated[str | None, typer.Option()] = None,
    own_options: Annotated[list[str] | None, typer.Option("--set")] = None,
    tensor_bits: Annotated[
        list[str] | None, typer.Option(help="PATTERN=BITS for matrices by name, such as 'blocks.0.att.value=8'. May be repeated.")
    ] = None,
    calib: Annotated[
        str | None,
        typer.Option(
            help='Calibration text: .txt, or .jsonl with a "text" in each line. Default: the text in the package. For Vision-RWKV: images, '
            "as a folder or an .npz; no default."
        ),
    ] = None,
    calib_rows: Annotated[int, typer.Option(help="Rows of calibration text, or images.")] = _DEFAULT.calibration.rows,
    calib_len: Annotated[int, typer.Option(help="Tokens in a row of text.")] = _DEFAULT.calibration.length,
    work_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder for hidden states, the plan and finished tensors. After a kill, the same command continues from there and "
            "writes the same bytes. Ctrl-C or SIGTERM finishes the block and exits with 75. Default: a temporary folder."
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help=_one_of(RESUME) + ": if --work-dir holds another job (checkpoint, text, options, versions, threads), or is damaged, "
            "start again and say so | refuse | always start again."
        ),
    ] = RESUME[0],
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="world | bytes | a tokenizer.json | a World vocabulary file. Default: one next to the checkpoint, or by vocabulary size."
        ),
    ] = None,
    adapter: AdapterOption = None,
    forward_dtype: Annotated[
        str,
        typer.Option(
            help=_one_of(FORWARD_DTYPES) + ": the numbers that the text is multiplied in on its way through the blocks. auto: bfloat16 for "
            "large models, where this CPU multiplies it faster. Statistics and quantising stay in float32."
        ),
    ] = _DEFAULT.forward_dtype,
    cluster: ClusterOption = None,
    device: Annotated[str, typer.Option(help="cpu | cuda. cuda has not been run on a GPU yet.")] = _DEFAULT.device,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    card: Annotated[bool, typer.Option("--card", help="For publishers: write README.md and config.json next to the output.")] = False,
    licence: Annotated[
        str | None,
        typer.Option("--license", help="Of the original, for the card, such as apache-2.0. Default: what its directory's card says."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="For the card: the original's name on the Hub, such as BlinkDL/rwkv7-g1. Default: its file's name.")
    ] = None,
    card_text: Annotated[
        str | None, typer.Option(help="For the card: measure the KL divergence on this text, which is not the calibration text.")
    ] = None,
    report: Annotated[
        str | None,
        typer.Option(help="Also write a page about the file, an .html (docs/report.md). Needs the extra report.", metavar="PATH"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the ledger of the file that would be written, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantise a checkpoint into one packed file."""
    request = QuantizeRequest(
        bits=bits,
        code_bits=code_bits,
        method=method,
        style=style,
        choice=choice,
        proxy=proxy,
        group_size=group_size,
        symmetric=symmetric,
        scale_bits=scale_bits,
        codebook_size=codebook_size,
        codebook_rank=codebook_rank,
        codebook_dim=codebook_dim,
        clip_search=clip_search,
        act_order=act_order,
        damping=damping,
        correction=correction,
        fall_back=fall_back,
        head_bits=head_bits,
        emb_bits=emb_bits,
        vector_bits=vector_bits,
        vector_codebook=vector_codebook,
        own_options=tuple(own_options or ()),
        tensor_bits=tuple(tensor_bits or ()),
        calibration=dataclasses.replace(CalibrationConfig(), path=calib, rows=calib_rows, length=calib_len),
        tokenizer=tokenizer,
        adapter=adapter,
        forward_dtype=forward_dtype,
        device=device,
        seed=seed,
    )
    recipe_for(request)  # options that do not fit are refused before torch is imported
    from rwkvquant.pipeline import quantize as pipeline

    if not card and (licence, base_model, card_text) != (None, None, None):
        raise typer.BadParameter("--license, --base-model and --card-text go with --card")
    if card and adapter:
        raise typer.BadParameter("--card describes the quantised base model; with --adapter write a card of your own")
    if cluster is not None and device != "cpu":
        raise typer.BadParameter("the workers of --cluster use their CPUs; leave out --device")
    progress = quantize_progress()
    if output is None and not dry_run:
        raise typer.BadParameter("give -o OUT.safetensors, or --dry-run")

    if report is not None:
        if output is None or dry_run:
            raise typer.BadParameter("--report describes the file that is written; leave it out with --dry-run")
        from rwkvquant.report.page import require_jinja2
        from rwkvquant.report.sources import require_output

        require_jinja2()  # before the work, not after
        require_output(report, checkpoint, output)

    def job() -> dict[str, Any]:
        with (
            cluster_at(cluster, progress) if cluster is not None else nullcontext(pipeline.HERE) as executor,
            finish_first() if work_dir else nullcontext(lambda: False) as stop,
        ):
            if output is None or dry_run:
                return pipeline.plan_only(checkpoint, request, progress, work_dir, resume, stop, executor).to_json()
            options: dict[str, Any] = {"progress": progress, "work_dir": work_dir, "resume": resume, "stop": stop, "executor": executor}
            return pipeline.quantize(checkpoint, output, request, **options).to_json()

    if card and output is not None and not dry_run:
        from rwkvquant.cli.publish import publish

        result = publish(checkpoint, output, job, licence, base_model, card_text)
    else:
        result = job()
    if report is not None and output is not None:
        _write_report(report, output, result, checkpoint, work_dir, adapter)
    emit(result, as_json, lambda: show(result, planned=dry_run))


def _write_report(report: str, output: str, result: dict[str, Any], checkpoint: str, work_dir: str | None, adapter: str | None) -> None:
    """With what this job knows. An adapter changes the weights, so the original is then not shown next to the stored ones."""
    from rwkvquant.report.page import write_report
    from rwkvquant.report.sources import of_job

    write_report(of_job(output, {"quantize": result}, None if adapter else checkpoint, work_dir), report)


def show(result: dict[str, Any], planned: bool = False) -> None:
    """The ledger of the new file, then its sizes before and after."""
    source = result["source"]
    stdout.print(ledger_table("planned" if planned else result["output"], result["ledger"]))
    stdout.print()
    rows = [
        [name, human_bytes(r["file_bytes"]), f"{r['bits_per_weight']:.3f}", f"{r['bits_per_weight_file']:.3f}"]
        for name, r in (("before", source), ("after", result))
    ]
    title = f"{source['file_bytes'] / result['file_bytes']:.2f}x smaller; bits per weight"
    stdout.print(table(title, ["", "file", "projections and LoRA", "whole file"], rows))
    if result["tokenizer"] is not None:
        stdout.print(f"tokenizer {result['tokenizer']}: {result['tokenizer_source']}")
    if "card" in result:
        stdout.print(f"written for publishing: {', '.join(result['card'])}")
