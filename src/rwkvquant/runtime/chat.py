"""A conversation with a model. A template (templates/) makes text of it; the default is `world`, the form of BlinkDL's chat models.

An answer ends at token 0, or before a stop string of the template, such as an empty line and "User:". A stop string is never shown, even
if it comes in several tokens.

The state continues from turn to turn, and only new text is read. `Chat` keeps a few places (`_Place`): a state, and the text that was
read to get there. The next turn continues at the place with the longest text that the new text begins with:

- Mostly this is the end of the last answer. A token may hold both the end of an answer and the first line break of the stop string. Then
  the place is before that token, and the next turn first reads the part of it that was shown.
- A template may give earlier answers to the model in another form than the model wrote them: g1 drops their thinking. Then the place is
  where the last answer began, and the answer is read again in its new form.
- If a Jinja template changed the text before that, the conversation is read again from its beginning.

In each case the model has read what the template makes of the conversation, as if all of it had been read at once.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from typing import Unpack

from rwkvquant.errors import ConfigError
from rwkvquant.results import ChatResult
from rwkvquant.runtime.sampling import Sampler, SamplingConfig, SamplingOptions, sampling_of
from rwkvquant.runtime.session import END_OF_TEXT, Logits, Model
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.tuned import open_state
from rwkvquant.runtime.stopping import TextUntilStop, stop_strings
from rwkvquant.runtime.templates import ChatMessage, ChatTemplate, chat_template
from rwkvquant.runtime.thinking import ChatPiece, ThinkingSplit, begun_thinking
from rwkvquant.runtime.tokenizer_base import utf8

DEFAULT_TEMPLATE = "world"
ANY_ANSWERS = ("", "\ufdd1")  # one that is empty, and one that begins as no other text does


@dataclass(frozen=True)
class _Place:
    """The state after a text. None: before the first token, so a token 0 is read first."""

    text: str
    state: State | None


class Chat:
    """One conversation with a model.

        chat = Chat(model, template="g1", system="You are a poet.")
        for piece in chat.reply("A poem about rain, please"): print(piece, end="")
        chat.answer("Another one").text

    `template`, `think`, `max_tokens`: as they were given or chosen. `finish_reason` of the last answer: "stop" at token 0 or a stop string,
    "length" at `max_tokens`, None for one that was closed early.
    Penalties of the sampling are counted within each answer; the random numbers continue from one answer to the next.
    """

    def __init__(
        self,
        model: Model,
        sampling: SamplingConfig | None = None,
        max_tokens: int | None = None,
        system: str | None = None,
        *,
        template: ChatTemplate | str | os.PathLike[str] = DEFAULT_TEMPLATE,
        think: str | None = None,
        stop: str | Sequence[str] = (),
        **options: Unpack[SamplingOptions],
    ) -> None:
        """`max_tokens` limits each answer with its thinking; None is 512, and 4096 for g1. `system` is read before the first message.

        `template`: "world", "rwkv", "g1", a Jinja file, or a ChatTemplate. `think`: how a reasoning model thinks; g1 has "on" (the
        default), "short", "long" and "none", a Jinja file "on" and "none". `stop`: texts that end an answer, besides the template's own.
        The sampling is a SamplingConfig, or its fields as `options`: Chat(model, temperature=0.7, seed=1).
        Raises ConfigError for max_tokens below 1, an unknown template, way to think or option, and a Jinja file that cannot be used;
        TokenizerError for a system text that is not Unicode.
        """
        self.template = template if isinstance(template, ChatTemplate) else chat_template(template)
        self.template.require_think(think)
        self.think = think
        if max_tokens is None:
            max_tokens = self.template.max_tokens
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1; got {max_tokens}")
        self.max_tokens = max_tokens
        self.finish_reason: str | None = None
        self._model = model
        self._sampler = Sampler(sampling_of(sampling, options))
        self._stops = stop_strings((*self.template.stop, *stop_strings(stop)))
        self._system = (system or "").strip()
        utf8(self._system)
        self._messages: list[ChatMessage] = []
        self._start(None)

    @property
    def begun(self) -> bool:
        """Whether anything was read: a message, or a saved conversation. After that, the system text is not read."""
        return self._continued or bool(self._heard)

    @property
    def seed(self) -> int:
        """The seed of the random numbers: the one that was given, or the one that was drawn."""
        return self._sampler.seed

    @property
    def messages(self) -> list[ChatMessage]:
        """What was said, with the system text: [{"role": "user", "content": "Hi"}, ...]. Without what came before `load`."""
        return [ChatMessage(role=message["role"], content=message["content"]) for message in self._messages]

    def reply(self, message: str) -> Generator[str, None, None]:
        """The answer to a message, in pieces as it grows, without thinking.

        Close the iterator to stop early: the conversation has what was written until then. Raises TokenizerError for a message that is
        not Unicode, ConfigError where a Jinja template refuses the message; then the conversation is unchanged.
        """
        with closing(self.pieces(message)) as pieces:
            yield from (piece.text for piece in pieces if not piece.thinking)

    def pieces(self, message: str) -> Generator[ChatPiece, None, None]:
        """As `reply`, with the thinking of a reasoning model: each piece says whether it is thinking."""
        self.finish_reason = None
        asked: list[ChatMessage] = [*self._messages, {"role": "user", "content": message}]
        text = self._text_of(asked)
        logits = self._read(text, self._shared(text, asked))
        begun = "" if self.template.keeps_answers else begun_thinking(text)
        split = ThinkingSplit(begun, is_open=not self.template.keeps_answers)
        written = answer = ""
        try:
            for piece in self._write(logits):
                written += piece
                for part in split.push(piece):
                    answer += "" if part.thinking else part.text
                    yield part
            for part in split.finish():
                answer += "" if part.thinking else part.text
                yield part
        finally:
            if self.template.separator is None:  # a Jinja template decides what becomes of the thinking
                answer = f"{begun}{written}"
            self._messages = [*asked, {"role": "assistant", "content": answer.strip()}]

    def answer(self, message: str) -> ChatResult:
        """All of `pieces` at once, without space around text and thinking. Raises as `reply` does."""
        pieces = list(self.pieces(message))
        text, thinking = ("".join(piece.text for piece in pieces if piece.thinking == kind).strip() for kind in (False, True))
        assert self.finish_reason is not None
        return ChatResult(text, thinking, self.finish_reason)

    def reset(self) -> None:
        """Begin a new conversation: with the tuned state if there is one, and with the system text."""
        self._start(None if self._continued else self._places[0].state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the conversation's state as states/files.py describes. Raises FormatError if the file cannot be written."""
        whole = self._heard if self._heard and self.template.keeps_answers else self._text_of(self._messages, answer_next=False)
        place = self._place(whole)
        if place.text != whole or place.state is None:
            self._read(whole, len(whole))
            place = self._places[-1]
        assert place.state is not None
        place.state.save(path)

    def load(self, path: str | os.PathLike[str], order: str | None = None) -> None:
        """Continue a saved conversation, or begin a new one with a tuned state. The content of the file decides which it is.

        `order` is only for a tuned state, as in Model.tuned_state. Raises FormatError or CheckpointError for a file that is neither, or
        is another model's, ConfigError for a saved conversation with a Jinja template; then nothing changes.
        """
        opened = open_state(path, self._model.arch, self._model.dims, order)
        if not opened.tuned and self.template.separator is None:
            raise ConfigError(
                f"a Jinja template needs the text of the whole conversation, and a saved one has only its state; got {path}. "
                "Continue it with a built-in template."
            )
        self._start(opened.state, continued=not opened.tuned)

    def _start(self, state: State | None, continued: bool = False) -> None:
        """`continued`: `state` is the end of a conversation that has begun. Otherwise a new one begins with it."""
        self._continued = continued
        self._places = [_Place("", state)]
        self._heard = ""  # what the model has read and written since then, as text
        self._before: list[int] = []  # the ids that it read last
        opening: list[ChatMessage] = []
        if not continued and self._system:
            opening = [{"role": "system", "content": self._system}]
        elif not continued and state is None:
            opening = [*self.template.opening]
        self._messages = opening

    def _text_of(self, messages: Sequence[ChatMessage], answer_next: bool = True) -> str:
        """The text of the conversation since its first place."""
        template = self.template
        if self._heard and template.keeps_answers:
            return f"{self._heard}{template.separator}{template.render(messages[-1:], self.think, answer_next)}"
        text = template.render(messages, self.think, answer_next)
        return f"{template.separator}{text}" if self._continued and text else text

    def _shared(self, text: str, asked: Sequence[ChatMessage]) -> int:
        """The number of characters of `text` that stay the same when the conversation has an answer."""
        if self.template.keeps_answers:
            return len(text)
        lengths = [len(text)]
        for answer in ANY_ANSWERS:
            with suppress(ConfigError):  # a Jinja template may refuse an empty answer
                lengths.append(_common(text, self._text_of([*asked, {"role": "assistant", "content": answer}])))
        return min(lengths)

    def _place(self, text: str) -> _Place:
        """The last place that `text` passes."""
        return max((place for place in self._places if text.startswith(place.text)), key=lambda place: len(place.text))

    def _read(self, text: str, shared: int) -> Logits:
        """Read what is new in `text`; its end is then the last place. Another place is after `shared` characters, or a few before."""
        begin, place = self._places[0], self._place(text)
        known = place.text
        if place is begin and self.template.end_mark:  # token 0 at the beginning is read once, and not after a tuned state
            known = text[: len(text) - len(text.lstrip(self.template.end_mark))]
        tokens = [*([END_OF_TEXT] if place.state is None else []), *self._encode(text[len(known) :])]
        if not tokens:
            raise ConfigError(f"the chat template {self.template.name} makes no text of this message")
        count, length = self._cut(tokens, text, len(known), shared)
        if 0 < count < len(tokens):
            place, tokens = _Place(text[:length], self._model.forward(tokens[:count], place.state)[1]), tokens[count:]
        logits, state = self._model.forward(tokens, place.state)
        kept = [] if place is begin or self.template.keeps_answers else [place]
        self._places, self._heard = [begin, *kept, _Place(text, state)], text
        self._before = tokens
        return logits

    def _cut(self, tokens: list[int], text: str, length: int, shared: int) -> tuple[int, int]:
        """The longest beginning of `tokens` that ends within the first `shared` characters: (number of tokens, characters up to there).

        The tokens begin after `length` characters. (0, length) if there is none, or nothing to cut.
        """
        best, mark = (0, length), self.template.end_mark
        decoder = self._model.tokenizer.stream_decoder()
        for count, token in enumerate(tokens if shared < len(text) else (), start=1):
            marked = mark if text.startswith(mark, length) else ""
            piece = marked if token == END_OF_TEXT else decoder.push(token)
            if not text.startswith(piece, length):
                break  # the tokenizer changes text, such as its accents; the next turn may have to read more again
            length += len(piece)
            if length > shared:
                break
            if not decoder.within_character:
                best = (count, length)
        return best

    def _encode(self, text: str) -> list[int]:
        """The tokens of a text; token 0 where the template marks it."""
        return self.template.tokens(text, self._model.tokenizer.encode)

    def _write(self, logits: Logits) -> Iterator[str]:
        """The model's text up to a stop string, in pieces. The last place follows it, as far as text that was passed on."""
        state = self._places[-1].state
        self._sampler.forget()
        output = TextUntilStop(self._model.tokenizer.stream_decoder(after=self._before), self._stops)
        for _ in range(self.max_tokens):
            token = self._sampler.next(logits)
            if token == END_OF_TEXT:
                self.finish_reason = "stop"
                break
            logits, state = self._model.forward([token], state)
            piece = output.push(token)
            self._heard += piece
            if not output.holds_back:
                self._places[-1] = _Place(self._heard, state)
            if piece:
                yield piece
            if output.stopped:
                self.finish_reason = "stop"
                return
        else:
            self.finish_reason = "length"
        if rest := output.finish():
            self._heard += rest
            yield rest


def _common(one: str, other: str) -> int:
    """How many characters both begin with."""
    return next((count for count, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
