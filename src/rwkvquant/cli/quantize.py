"""rwkvquant quantize: one checkpoint in, one packed file out."""

from __future__ import annotations

import dataclasses
from contextlib import nullcontext
from typing import Annotated, Any

import typer

from rwkvquant.cli.output import JsonOption, emit, human_bytes, ledger_table, quantize_progress, stdout, table
from rwkvquant.cli.signals import finish_first
from rwkvquant.config import (
    CHOICES,
    CLIP_SEARCHES,
    CODEBOOK_SIZES,
    GROUP_SIZES,
    METHODS,
    PROXY_READINGS,
    RESUME,
    SCALE_BITS,
    VECTOR_CODEBOOKS,
    CalibrationConfig,
    QuantizeConfig,
)

_DEFAULT = QuantizeConfig()


def _one_of(values: tuple[Any, ...]) -> str:
    return " | ".join(str(value) for value in values)


def command(
    checkpoint: Annotated[str, typer.Argument(help="RWKV-6 (x060) or RWKV-7 (x070): a .pth, safetensors or Hugging Face directory.")],
    output: Annotated[str | None, typer.Option("--output", "-o", help="The packed file to write, a .safetensors.")] = None,
    bits: Annotated[
        float | None,
        typer.Option(
            "--bits",
            "-b",
            help="Budget: stored bits per weight of all projections and LoRA factors, side information included. Default 3.275.",
        ),
    ] = None,
    code_bits: Annotated[int | None, typer.Option(help="Instead of a budget: this many bits a code, for every matrix.")] = None,
    method: Annotated[str, typer.Option(help=_one_of(METHODS))] = _DEFAULT.method,
    style: Annotated[str, typer.Option(help="Of a plain method: tuned, or as the RWKVQuant paper ran it.")] = _DEFAULT.style,
    choice: Annotated[str | None, typer.Option(help="SQ or VQ in the first three methods: " + _one_of(CHOICES) + ".")] = None,
    proxy: Annotated[str, typer.Option(help="Reading of the paper's proxies: " + _one_of(PROXY_READINGS) + ".")] = _DEFAULT.proxy,
    group_size: Annotated[int | None, typer.Option(help=_one_of(GROUP_SIZES) + "; with --code-bits.")] = None,
    symmetric: Annotated[bool | None, typer.Option("--symmetric/--asymmetric", help="With --code-bits.")] = None,
    scale_bits: Annotated[int | None, typer.Option(help=_one_of(SCALE_BITS) + "; 8 means one byte a group and one float16 a row.")] = None,
    codebook_size: Annotated[int | None, typer.Option(help=_one_of(CODEBOOK_SIZES) + " weights a codebook; with --code-bits.")] = None,
    codebook_rank: Annotated[int | None, typer.Option(help="Compress codebooks to this rank, 1-8; 0 not; with --code-bits.")] = None,
    codebook_dim: Annotated[int | None, typer.Option(help="1 | 2 neighbouring weights a code; with --code-bits.")] = None,
    clip_search: Annotated[str | None, typer.Option(help=_one_of(CLIP_SEARCHES) + ". Default: hessian, for rtn weight.")] = None,
    act_order: Annotated[
        bool | None, typer.Option("--act-order/--no-act-order", help="Columns by falling diag(H), with static groups. Default: yes.")
    ] = None,
    damping: Annotated[
        float | None, typer.Option(help="Added to diag(H), as a fraction of its mean, for --correction too. Default 0.05.")
    ] = None,
    correction: Annotated[
        float | None, typer.Option(help="How much of earlier errors the block's last products make up for, 0-1. Default: 0.5 in rwkvquant.")
    ] = None,
    fall_back: Annotated[
        bool | None, typer.Option("--fall-back/--no-fall-back", help="Plain rounding where it does better on text kept out. Default: yes.")
    ] = None,
    head_bits: Annotated[int, typer.Option(help="2-8, or 16.")] = _DEFAULT.head_bits,
    emb_bits: Annotated[int, typer.Option(help="2-8, or 16.")] = _DEFAULT.emb_bits,
    vector_bits: Annotated[int, typer.Option(help="Element-wise vectors: 3, 8 or 16.")] = _DEFAULT.vector_bits,
    vector_codebook: Annotated[
        str | None, typer.Option(help="3-bit codebooks for these vectors, weighted by " + _one_of(VECTOR_CODEBOOKS) + ".")
    ] = None,
    tensor_bits: Annotated[
        list[str] | None, typer.Option(help="PATTERN=BITS for matrices by name, such as 'blocks.0.att.value=8'. May be repeated.")
    ] = None,
    calib: Annotated[
        str | None, typer.Option(help='Calibration text: .txt, or .jsonl with a "text" in each line. Default: the text in the package.')
    ] = None,
    calib_rows: Annotated[int, typer.Option(help="Rows of calibration text.")] = _DEFAULT.calibration.rows,
    calib_len: Annotated[int, typer.Option(help="Tokens in a row.")] = _DEFAULT.calibration.length,
    work_dir: Annotated[
        str | None,
        typer.Option(
            help="Folder for hidden states, the plan and what is finished. A job that was killed goes on from there when the same command "
            "is given again, to the same bytes; Ctrl-C or SIGTERM finishes the block and exits with 75. Default: a temporary folder."
        ),
    ] = None,
    resume: Annotated[
        str,
        typer.Option(
            help=_one_of(RESUME) + ": if --work-dir holds another job (checkpoint, text, options, versions, threads), or is damaged, "
            "start anew and say so | refuse | always start anew."
        ),
    ] = RESUME[0],
    tokenizer: Annotated[
        str | None,
        typer.Option(help="world | bytes | a tokenizer.json | a World vocabulary file. Default: the directory's, or by vocabulary size."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu | cuda")] = _DEFAULT.device,
    seed: Annotated[int, typer.Option()] = _DEFAULT.seed,
    card: Annotated[bool, typer.Option("--card", help="For publishers: write README.md and config.json beside the output.")] = False,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the ledger of the file that would be written, and stop.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Quantise a checkpoint into one packed file."""
    from rwkvquant.pipeline import quantize as pipeline

    config = QuantizeConfig(
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
        tensor_bits=tuple(tensor_bits or ()),
        calibration=dataclasses.replace(CalibrationConfig(), path=calib, rows=calib_rows, length=calib_len),
        tokenizer=tokenizer,
        device=device,
        seed=seed,
    )
    if not card and (licence, base_model, card_text) != (None, None, None):
        raise typer.BadParameter("--license, --base-model and --card-text go with --card")
    progress = quantize_progress()
    if output is None and not dry_run:
        raise typer.BadParameter("give -o OUT.safetensors, or --dry-run")

    def job() -> dict[str, Any]:
        with finish_first() if work_dir else nullcontext(lambda: False) as stop:
            if output is None or dry_run:
                return pipeline.plan_only(checkpoint, config, progress, work_dir, resume, stop)
            return pipeline.quantize(checkpoint, output, config, progress=progress, work_dir=work_dir, resume=resume, stop=stop)

    if card and output is not None and not dry_run:
        from rwkvquant.cli.publish import publish

        result = publish(checkpoint, output, job, licence, base_model, card_text)
    else:
        result = job()
    emit(result, as_json, lambda: show(result, planned=dry_run))


def show(result: dict[str, Any], planned: bool = False) -> None:
    """The ledger of the new file, and before and after side by side."""
    source = result["source"]
    stdout.print(ledger_table("planned" if planned else result["output"], result["ledger"]))
    stdout.print()
    rows = [
        [name, human_bytes(r["file_bytes"]), f"{r['bits_per_weight']:.3f}", f"{r['bits_per_weight_file']:.3f}"]
        for name, r in (("before", source), ("after", result))
    ]
    title = f"{source['file_bytes'] / result['file_bytes']:.2f}x smaller; bits per weight"
    stdout.print(table(title, ["", "file", "projections and LoRA", "whole file"], rows))
    if "card" in result:
        stdout.print(f"written for publishing: {', '.join(result['card'])}")
