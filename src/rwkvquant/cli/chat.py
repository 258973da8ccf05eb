"""rwkvquant chat: a conversation in the terminal. Needs no torch."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvquant.cli.evaluate import TokenizerOption
from rwkvquant.cli.generate import (
    DecayOption,
    FrequencyOption,
    MinPOption,
    PresenceOption,
    SeedOption,
    StateOrderOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    require_state,
)
from rwkvquant.cli.output import stderr
from rwkvquant.errors import ConfigError, RwkvQuantError

if TYPE_CHECKING:
    from rwkvquant.runtime.chat import Chat

HELP = "/save FILE saves the conversation, /load FILE continues a saved one, /quit or Ctrl-D ends; Ctrl-C stops an answer"
TYPING = '//TEXT sends /TEXT; a message of several lines begins and ends with """'
QUOTES = '"""'

# What keys send that is not text: the sequences of arrow and function keys, and all control characters except tab and line break.
CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1bO[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def command(
    file: Annotated[str, typer.Argument(help="A packed file or a checkpoint.")],
    state: Annotated[
        str | None, typer.Option(help="Continue a conversation that /save wrote, or begin with a tuned state (.pth or safetensors).")
    ] = None,
    state_order: StateOrderOption = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Tell the model what it is or should do; it is read before the first message.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", "-n", min=1, help="Longest answer, in tokens.")] = 512,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 0.7,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    presence_penalty: PresenceOption = 0.4,
    frequency_penalty: FrequencyOption = 0.4,
    penalty_decay: DecayOption = 0.996,
    seed: SeedOption = None,
    tokenizer: TokenizerOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Talk with a model. It remembers the conversation.

    Begin and end a message of several lines with \"\"\". //TEXT sends /TEXT, because a line that begins with / is a command: /save FILE,
    /load FILE, /quit.
    """
    from rwkvquant.runtime.chat import Chat
    from rwkvquant.runtime.sampling import SamplingConfig
    from rwkvquant.runtime.session import load

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
    chat = Chat(load(file, tokenizer=tokenizer, threads=threads), sampling, max_tokens=max_tokens, system=system)
    if state is not None:
        chat.load(state, state_order)
        if system is not None and chat.begun:
            raise ConfigError(f"--system is read before the first message; {state} is a conversation that has begun. Leave --system out.")
    if sys.stdin.isatty():
        with suppress(ImportError):  # arrow keys and a history, where Python has it
            import readline  # noqa: F401
        stderr.print(f"{HELP}. {TYPING}. --seed {chat.seed} repeats this conversation.", style="dim")
    _converse(chat)


def _converse(chat: Chat) -> None:
    """Read lines until /quit or the end of input, and answer them."""
    while (line := _read()) is not None:
        if line.startswith(QUOTES):
            _answer(chat, _block(line))
        elif line.startswith("//"):
            _answer(chat, line[1:])
        elif line == "/quit":
            break
        elif line.startswith("/"):
            _obey(chat, line)
        else:
            _answer(chat, line)


def _read() -> str | None:
    """The next line from the user, without space around it; None at the end of input."""
    line = _line("User: ")
    return line if line is None else line.strip()


def _block(line: str) -> str:
    """A message of several lines: from the quotes that begin `line` to a line that ends with them, or to the end of input."""
    lines = [line.removeprefix(QUOTES)]
    while not lines[-1].rstrip().endswith(QUOTES):
        following = _line("... ")
        if following is None:
            return "\n".join(lines)
        lines.append(following)
    return "\n".join(lines).rstrip().removesuffix(QUOTES)


def _line(prompt: str) -> str | None:
    """A line as it was typed, without keys that are not text; None at the end of input. The prompt is for terminals."""
    try:
        return CONTROL.sub("", input(prompt if sys.stdin.isatty() else ""))
    except EOFError:
        return None


def _answer(chat: Chat, message: str) -> None:
    if not message.strip():
        return
    print("Assistant:", end="", flush=True)
    try:
        for piece in chat.reply(message):
            print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pass
    except RwkvQuantError as error:  # a line that is not text does not end the conversation either
        stderr.print(str(error))
    print("\n")


def _obey(chat: Chat, message: str) -> None:
    verb, _, path = message.partition(" ")
    try:
        if verb == "/save" and path:
            chat.save(path)
            stderr.print(f"saved in {path}", style="dim")
        elif verb == "/load" and path:
            chat.load(path)
        elif verb in ("/save", "/load"):
            stderr.print(f"{verb} needs the name of a file: {verb} FILE")
        else:
            stderr.print(f"there is no command {verb}. {HELP}. {TYPING}")
    except RwkvQuantError as error:  # a misspelt file name does not end the conversation
        stderr.print(str(error))
