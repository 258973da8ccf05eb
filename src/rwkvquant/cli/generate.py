"""rwkvquant generate: continue a prompt. Needs no torch."""

from __future__ import annotations

import itertools
import sys
import time
from typing import Annotated

import typer

from rwkvquant.cli.evaluate import AdapterOption, TokenizerOption
from rwkvquant.cli.output import JsonOption, emit, stderr
from rwkvquant.cli.prompt import read_prompt

TemperatureOption = Annotated[float, typer.Option(help="Higher is more random; 0 takes the likeliest token.")]
TopPOption = Annotated[float, typer.Option(help="Choose among the likeliest tokens that have this probability together.")]
TopKOption = Annotated[int, typer.Option(help="Choose among this many of the likeliest tokens, before top-p. 0 is off.")]
MinPOption = Annotated[float, typer.Option(help="Leave out tokens less likely than this times the likeliest, after top-p. 0 is off.")]
PresenceOption = Annotated[float, typer.Option(help="Subtracted from the logit of each token that has occurred.")]
FrequencyOption = Annotated[float, typer.Option(help="Subtracted for each time that a token has occurred.")]
DecayOption = Annotated[float, typer.Option(help="With each token, earlier occurrences are multiplied by this.")]
SeedOption = Annotated[int | None, typer.Option(help="The same seed gives the same text. Default: a new one for each run.")]
StateOrderOption = Annotated[
    str | None,
    typer.Option(
        help="value-key | key-value: the order of the indices in a tuned state. Default: value-key in a .pth, as training tools write; "
        "key-value in safetensors, as web-rwkv writes."
    ),
]
ThreadsOption = Annotated[int | None, typer.Option(help="Default: one for each physical core that may be used.")]
KvBitsOption = Annotated[
    int | None,
    typer.Option(metavar="2|3|4|8|16|32", help="Of a transformer: keep keys and values in so many bits a number. Default: 32."),
]
PagesOption = Annotated[
    str,
    typer.Option(
        metavar="auto|huge|map",
        help="huge copies a packed file into huge pages, which is faster; with map, processes that use the same file share its memory; "
        "auto is huge where the system has huge pages and enough free memory.",
    ),
]


def command(
    file: Annotated[str, typer.Argument(help="A packed file or a checkpoint.")],
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to continue; - reads it from stdin.")] = None,
    prompt_file: Annotated[
        str | None, typer.Option("--prompt-file", "-f", help="Read the prompt from this file, in UTF-8; - is stdin.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="At most this many tokens.")] = 64,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Stop before this text, which is not printed. May be given several times.")
    ] = None,
    state: Annotated[
        str | None, typer.Option(help="Begin with a tuned state (.pth or safetensors), or continue a conversation that chat saved.")
    ] = None,
    state_order: StateOrderOption = None,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 0.7,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    presence_penalty: PresenceOption = 0.0,
    frequency_penalty: FrequencyOption = 0.0,
    penalty_decay: DecayOption = 0.996,
    seed: SeedOption = None,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    kv_bits: KvBitsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write text that continues a prompt."""
    from rwkvquant.runtime.sampling import SamplingConfig
    from rwkvquant.runtime.session import load
    from rwkvquant.runtime.states.tuned import open_state

    sampling = SamplingConfig(
        temperature=temperature,
        top_p=top_p,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        penalty_decay=penalty_decay,
        seed=seed,
        top_k=top_k,
        min_p=min_p,
    )
    require_state(state, state_order)
    text = read_prompt(prompt, prompt_file)
    model = load(file, tokenizer=tokenizer, threads=threads, pages=pages, adapter=adapter, kv_cache=kv_bits, modality="text")
    begin = None if state is None else open_state(state, model.arch, model.dims, state_order).state
    if as_json:
        result = model.generate(text, max_tokens=max_tokens, sampling=sampling, state=begin, stop=stop or ())
        emit(result.to_json(), True, lambda: None)
        return
    started, count = time.perf_counter(), 0
    pieces = model.stream(text, max_tokens=max_tokens, sampling=sampling, state=begin, stop=stop or ())
    first = next(pieces, "")  # a prompt or tokenizer that does not fit raises here, before anything is printed
    print(text, end="", flush=True)
    for count, piece in enumerate(itertools.chain([first], pieces), start=1):  # noqa: B007
        print(piece, end="", flush=True)
    print()
    if sys.stderr.isatty():
        stderr.print(f"{count / (time.perf_counter() - started):.1f} pieces/s", style="dim")


def require_state(state: str | None, order: str | None) -> None:
    """Raises a usage error for an order without a state."""
    if order is not None and state is None:
        raise typer.BadParameter("--state-order goes with --state")
