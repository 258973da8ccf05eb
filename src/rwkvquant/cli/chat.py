"""rwkvquant chat: a conversation in the terminal. Needs no torch."""

from __future__ import annotations

import re
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from rwkvquant.cli.evaluate import AdapterOption, TokenizerOption
from rwkvquant.cli.generate import (
    DecayOption,
    FrequencyOption,
    KvBitsOption,
    MinPOption,
    PagesOption,
    PresenceOption,
    SeedOption,
    StateOrderOption,
    TemperatureOption,
    ThreadsOption,
    TopKOption,
    TopPOption,
    require_state,
)
from rwkvquant.cli.history import History, history_file
from rwkvquant.cli.output import stderr, stdout
from rwkvquant.errors import ConfigError, RwkvQuantError
from rwkvquant.runtime.templates import TEMPLATES, chat_template
from rwkvquant.runtime.thinking import CLOSE, OPEN, ChatPiece

if TYPE_CHECKING:
    from rwkvquant.runtime.chat import Chat

QUOTES = '"""'
COMMANDS = {
    "/help": "show this list",
    "/reset": "begin a new conversation",
    "/save FILE": "save the conversation",
    "/load FILE": "continue a saved conversation, or begin with a tuned state",
    "/think HOW": "think on, short, long or none from now on, with --template g1",
    "/quit": "end, as Ctrl-D does",
}
TYPING = {
    QUOTES: "begins and ends a message of several lines",
    "//TEXT": "sends /TEXT",
    "Ctrl-C": "stops an answer",
}
NAMES = ", ".join(f"{name} ({template.about})" for name, template in TEMPLATES.items())
HINT = "/help shows all commands"
DIM, NORMAL = "\x1b[2m", "\x1b[0m"

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
    template: Annotated[
        str,
        typer.Option(
            metavar="NAME|FILE",
            help=f"How the conversation becomes text: {NAMES}, or a Jinja file as in Hugging Face's chat_template.",
        ),
    ] = "world",
    think: Annotated[
        str | None,
        typer.Option(
            metavar="on|short|long|none",
            help="How a reasoning model thinks before it answers. Default with --template g1: on.",
            show_default=False,
        ),
    ] = None,
    hide_thinking: Annotated[bool, typer.Option("--hide-thinking", help="Do not show the thinking.")] = False,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Also end an answer before this text. May be given several times.")
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", "-n", min=1, help="Longest answer with its thinking, in tokens. Default: 512; with --template g1 4096."
        ),
    ] = None,
    temperature: TemperatureOption = 1.0,
    top_p: TopPOption = 0.7,
    top_k: TopKOption = 0,
    min_p: MinPOption = 0.0,
    presence_penalty: PresenceOption = 0.4,
    frequency_penalty: FrequencyOption = 0.4,
    penalty_decay: DecayOption = 0.996,
    seed: SeedOption = None,
    tokenizer: TokenizerOption = None,
    adapter: AdapterOption = None,
    threads: ThreadsOption = None,
    pages: PagesOption = "auto",
    kv_bits: KvBitsOption = None,
    history: Annotated[bool, typer.Option(help="Keep the lines that were typed, for the arrow keys in later chats.")] = True,
) -> None:
    """Talk with a model. It remembers the conversation.

    Begin and end a message of several lines with \"\"\". //TEXT sends /TEXT, because a line that begins with / is a command: /help,
    /reset, /save FILE, /load FILE, /think HOW, /quit. Ctrl-C stops an answer.
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
    form = chat_template(template)
    form.require_think(think)
    model = load(file, tokenizer=tokenizer, threads=threads, pages=pages, adapter=adapter, kv_cache=kv_bits, modality="text")
    chat = Chat(model, sampling, max_tokens, system, template=form, think=think, stop=stop or ())
    if state is not None:
        chat.load(state, state_order)
        if system is not None and chat.begun:
            raise ConfigError(f"--system is read before the first message; {state} is a conversation that has begun. Leave --system out.")
    if not sys.stdin.isatty():
        _converse(chat, hide_thinking)
        return
    lines = History(history_file() if history else None)
    stderr.print(f"{HINT}. --seed {chat.seed} repeats this conversation.", style="dim")
    try:
        _converse(chat, hide_thinking)
    finally:
        if reason := lines.save():
            stderr.print(reason, style="dim")


def _converse(chat: Chat, hide_thinking: bool = False) -> None:
    """Read lines until /quit or the end of input, and answer them."""
    while (line := _read()) is not None:
        if line.startswith(QUOTES):
            _answer(chat, _block(line), hide_thinking)
        elif line.startswith("//"):
            _answer(chat, line[1:], hide_thinking)
        elif line == "/quit":
            break
        elif line.startswith("/"):
            _obey(chat, line)
        else:
            _answer(chat, line, hide_thinking)


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


def _answer(chat: Chat, message: str, hide_thinking: bool) -> None:
    """Write the answer of the model. What goes wrong, or Ctrl-C, ends the answer and not the conversation."""
    if not message.strip():
        return
    print("Assistant:", end="", flush=True)
    shown = Shown(hide_thinking)
    try:
        with closing(chat.pieces(message)) as pieces:
            for piece in pieces:
                shown.push(piece)
    except KeyboardInterrupt:
        pass
    except RwkvQuantError as error:  # a line that is not text does not end the conversation either
        stderr.print(str(error))
    finally:
        shown.end()
    print("\n")
    if chat.finish_reason == "length" and shown.thought and not shown.answered:
        stderr.print(
            f"The model thought for {chat.max_tokens} tokens and gave no answer; --max-tokens or --think short may help.", style="dim"
        )


class Shown:
    """Writes an answer as it grows. Thinking is dim on a terminal, and between <think> and </think> elsewhere."""

    dims = stdout.is_terminal and not stdout.no_color

    def __init__(self, hide_thinking: bool) -> None:
        self.thought = self.answered = self._thinking = self._begun = False
        self._hide = hide_thinking

    def push(self, piece: ChatPiece) -> None:
        self.thought, self.answered = self.thought or piece.thinking, self.answered or not piece.thinking
        if piece.thinking and self._hide:
            return
        if piece.thinking and not self._thinking:
            self._write(f" {DIM}" if self.dims else f" {OPEN}\n")
            self._thinking = True
        elif not piece.thinking and self._thinking:
            self.end()
            self._write("\n\n")
        elif not self._begun and not piece.text[0].isspace():
            self._write(" ")
        self._begun = True
        self._write(piece.text)

    def end(self) -> None:
        """After the last piece, and between thinking and answer."""
        if self._thinking:
            self._write(NORMAL if self.dims else f"\n{CLOSE}")
            self._thinking = False

    @staticmethod
    def _write(text: str) -> None:
        print(text, end="", flush=True)


def _obey(chat: Chat, message: str) -> None:
    verb, _, rest = message.partition(" ")
    try:
        if verb == "/save" and rest:
            chat.save(rest)
            stderr.print(f"saved in {rest}", style="dim")
        elif verb == "/load" and rest:
            chat.load(rest)
        elif verb in ("/save", "/load"):
            stderr.print(f"{verb} needs the name of a file: {verb} FILE")
        elif verb == "/reset":
            chat.reset()
            stderr.print("a new conversation", style="dim")
        elif verb == "/think":
            chat.template.require_think(rest or "nothing")
            chat.think = rest
        elif verb == "/help":
            for keys, meaning in (COMMANDS | TYPING).items():
                stderr.print(f"{keys:<11} {meaning}")
        else:
            stderr.print(f"there is no command {verb}. {HINT}; //{message[1:]} sends the line as text.")
    except RwkvQuantError as error:  # a misspelt file name does not end the conversation
        stderr.print(str(error))
