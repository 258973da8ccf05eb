"""rwkvquant serve: an HTTP server with the API of OpenAI. Needs no torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

import rwkvquant
from rwkvquant.cli.chat import NAMES
from rwkvquant.cli.evaluate import AdapterOption, TokenizerOption
from rwkvquant.cli.generate import KvBitsOption, PagesOption, ThreadsOption
from rwkvquant.cli.output import stderr
from rwkvquant.errors import ConfigError, StoppedError

KEY_VARIABLE = "RWKVQUANT_API_KEY"


def command(
    file: Annotated[str, typer.Argument(help="A packed file or a checkpoint.")],
    host: Annotated[
        str, typer.Option(help="The address to listen on. Only 127.0.0.1 and others of this machine are private.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8000,
    api_key: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help=f"Answer only requests with this key. May be given several times. Default: ${KEY_VARIABLE}."),
    ] = None,
    cors_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL", help="Pages from here may use the server, such as https://example.org; * is every page. Default: none."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the model is called. Default: the name of the file.")] = None,
    template: Annotated[
        str, typer.Option(metavar="NAME|FILE", help=f"How a conversation becomes text: {NAMES}, or a Jinja file.")
    ] = "world",
    think: Annotated[
        str | None,
        typer.Option(metavar="on|short|long|none", help="How a reasoning model thinks where a request does not say.", show_default=False),
    ] = None,
    slots: Annotated[int, typer.Option(min=1, max=1024, help="How many answers are written side by side; others wait.")] = 16,
    waiting: Annotated[int, typer.Option(min=1, help="How many answers may wait for a slot; more are refused.")] = 256,
    cache_mb: Annotated[int, typer.Option(min=0, help="Memory for the states of texts that were read, in MB. 0 is off.")] = 1024,
    cache_bits: Annotated[
        int, typer.Option(metavar="32|8", help="8: cached states take a quarter of the memory, and answers may differ by a rounding.")
    ] = 32,
    max_tokens: Annotated[int, typer.Option(min=1, help="The longest answer, and that of requests that do not say.")] = 4096,
    max_prompt: Annotated[int, typer.Option(min=1, help="The longest prompt, in tokens.")] = 131072,
    max_body_mb: Annotated[int, typer.Option(min=1, help="The largest request, in MB.")] = 16,
    timeout: Annotated[float, typer.Option(min=1, help="Seconds after which an answer is given up.")] = 600,
    grace: Annotated[float, typer.Option(min=1, help="Seconds that answers have to finish after SIGTERM or Ctrl-C.")] = 30,
    keep: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Write cached states, uploaded states and sessions here at the end, and begin with them."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Where a request does not say.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Where a request does not say.")] = 0.7,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    kv_bits: KvBitsOption = None,
) -> None:
    """Answer requests of programs that know OpenAI's API, and serve a page to chat."""
    try:
        from rwkvquant.serve.guard import Access, loopback
        from rwkvquant.serve.server import Loop, bind, run
    except ModuleNotFoundError as error:
        if error.name not in ("starlette", "uvicorn"):
            raise
        raise ConfigError("serve needs the packages starlette and uvicorn: pip install 'rwkv-hybridquant[serve]'") from None
    from rwkvquant.runtime.inspection import inspect
    from rwkvquant.runtime.sampling import SamplingConfig
    from rwkvquant.runtime.session import load
    from rwkvquant.runtime.templates import chat_template
    from rwkvquant.serve.keeping import fingerprint, read, write
    from rwkvquant.serve.prefixes import Prefixes
    from rwkvquant.serve.scheduler import Scheduler
    from rwkvquant.serve.service import Defaults, FileFacts, Limits, Service

    if cache_bits not in (8, 32):
        raise ConfigError(f"--cache-bits must be 32, which is exact, or 8; got {cache_bits}")
    SamplingConfig(temperature=temperature, top_p=top_p)  # refuses what is out of range
    chosen = chat_template(template)
    chosen.require_think(think)
    keys = tuple(api_key or filter(None, [os.environ.get(KEY_VARIABLE)]))
    if not all(key and key.isascii() and key.isprintable() for key in keys):
        raise ConfigError("an API key is printable ASCII and not empty")
    model = load(file, tokenizer=tokenizer, threads=threads, pages=pages, adapter=adapter, kv_cache=kv_bits, modality="text")
    _ = model.tokenizer  # a model without one is refused now
    loop = Loop()
    scheduler = Scheduler(model, slots, Prefixes(cache_mb * 1_000_000, cache_bits), loop.post, waiting)
    limits = Limits(max_tokens=max_tokens, max_prompt=max_prompt, max_body=max_body_mb << 20, timeout=timeout)
    found = inspect(file)
    facts = FileFacts(Path(file).name, found.file_bytes, found.bits_per_weight, found.bits_per_weight_file)
    defaults = Defaults(temperature, top_p, think)
    service = Service(model, name or Path(file).stem, scheduler, chosen, limits, defaults, version=rwkvquant.__version__, file=facts)
    folder, mark = Path(keep or ""), ""
    if keep is not None:
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"--keep is a folder; {keep} is a file")
        mark = fingerprint(model, file, rwkvquant.__version__)
        stderr.print(read(folder, service, scheduler.prefixes, mark))
    private = loopback([host])
    opened = bind(host, port)

    def ready() -> None:
        address = opened.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        stderr.print(f"{service.name} is served at http://{shown}:{address[1]}/v1 ({slots} slots). Ctrl-C stops it.")
        stderr.print(f"A page to chat: http://{shown}:{address[1]}/")
        if private:
            stderr.print("Only programs on this machine reach it.")
        elif keys:
            stderr.print("Warning: other machines reach it, and what is sent is not encrypted. An API key is needed.")
        else:
            stderr.print("Warning: other machines reach it, and anyone may use it. Give --api-key, or --host 127.0.0.1.")

    complete = run(service, Access(keys, tuple(cors_origin or ()), private), opened, loop, grace, ready)
    if keep is not None:
        write(folder, service, scheduler.prefixes, mark)
    if not complete:
        raise StoppedError(f"stopped before all answers were complete; they had {grace:g} s (--grace)")
