"""rwkvquant inspect: what is in a checkpoint or a packed file. NumPy only; a 3 GB checkpoint is not read, only its table."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from rwkvquant.cli.output import JsonOption, emit, human_bytes, ledger_table, stdout, table


def command(
    file: Annotated[str, typer.Argument(help="A checkpoint or a packed file.")],
    ledger: Annotated[
        bool, typer.Option("--ledger", help="Show where every byte of a packed file goes; the rows add up to its size.")
    ] = False,
    tensors: Annotated[bool, typer.Option("--tensors", help="Show one line for each tensor.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show the architecture, sizes and tensors of a file, and the bits of a packed one."""
    from rwkvquant.errors import ConfigError
    from rwkvquant.results import PackedInfo
    from rwkvquant.runtime.inspection import inspect

    info = inspect(file)
    result = info.to_json()
    if isinstance(info, PackedInfo):
        emit(result, as_json, lambda: _show_packed(file, result, ledger, tensors))
    elif ledger:
        raise ConfigError(f"--ledger needs a packed file; {file} is a checkpoint. Try: rwkvquant quantize {file} --dry-run")
    else:
        emit(result, as_json, lambda: _show_checkpoint(file, result, tensors))


def _show_packed(file: str, result: dict[str, Any], ledger: bool, tensors: bool) -> None:
    dims, options, image = result["dims"], result["quantization_config"].get("options", {}), result.get("image")
    sizes = _image_sizes(dims, image) if image else f"vocabulary {dims['vocab']}, tokenizer {result['tokenizer']}"
    stdout.print(
        f"{file}: {(image or {}).get('family') or result['arch']}, {dims['layers']} layers x {dims['width']}, {sizes}, "
        f"method {options.get('method', 'unknown')}"
    )
    stdout.print(
        f"{human_bytes(result['file_bytes'])}, {result['bits_per_weight']:.3f} bits per weight (projections and LoRA factors), "
        f"{result['bits_per_weight_file']:.3f} over the whole file"
    )
    if result["decoded_layouts"]:
        stdout.print(f"no native product for {', '.join(result['decoded_layouts'])}: the engine keeps these matrices decoded")
    for transform in result["transforms"]:
        undone = f"; the engine undoes it in the decoded weights of {transform['undone']} of them" if transform["undone"] else ""
        stdout.print(
            f"input transform {transform['name']} of {transform['matrices']} matrices: {transform['flops']:,} operations a token{undone}"
        )
    if ledger:
        stdout.print(ledger_table("", result["ledger"]))
    if tensors:
        rows = [[t["name"], t["role"], t["method"], t["layout"], _shape(t), f"{t['bits_per_weight']:.3f}"] for t in result["tensors"]]
        stdout.print(table("", ["", "role", "method", "layout", "shape", "bits/weight"], rows))


def _show_checkpoint(file: str, result: dict[str, Any], tensors: bool) -> None:
    dims, image = result["dims"], result.get("image")
    sizes = _image_sizes(dims, image) if image else f"{dims['heads']} heads of {dims['head_size']}, vocabulary {dims['vocab']}"
    stdout.print(
        f"{file}: {(image or {}).get('family') or result['arch']}, {dims['layers']} layers x {dims['width']}, {sizes}, "
        f"{result['dtype']}, {human_bytes(result['file_bytes'])}"
    )
    if image:
        stdout.print(f"norms {'after' if image['post_norm'] else 'before'} the mixes of a block")
    else:
        stdout.print(f"tokenizer {result['tokenizer'] or 'unknown'}: {result['tokenizer_source']}")
    if result["tied_head"]:
        stdout.print("the head is the embedding (tied): the file has it once, a packed file has both, each with its own bits")
    total = result["parameters"]
    rows = [[role, f"{count:,}", f"{100 * count / total:.1f} %"] for role, count in result["parameters_by_role"].items()]
    stdout.print(table("", ["", "parameters", "share"], [*rows, ["all", f"{total:,}", ""]]))
    if tensors:
        rows = [[t["name"], t["role"], t["dtype"], _shape(t)] for t in result["tensors"]]
        stdout.print(table("", ["", "role", "dtype", "shape"], rows))


def _image_sizes(dims: dict[str, Any], image: dict[str, Any]) -> str:
    task = {None: "", "classify": ", to classify", "segment": ", to segment", "detect": ", to detect"}[image.get("task")]
    return f"patches of {dims['patch']} x {dims['patch']}, position embedding {_by(image['grid'])}, {dims.get('classes', 0)} classes{task}"


def _shape(tensor: dict[str, Any]) -> str:
    return _by(tensor["shape"])


def _by(sizes: list[int]) -> str:
    return " x ".join(map(str, sizes))
