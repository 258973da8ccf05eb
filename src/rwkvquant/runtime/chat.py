"""A conversation: `User: ...`, an empty line, `Assistant: ...`, an empty line, and so on, as BlinkDL's chat models are trained.

`System: ...` and an empty line may come first. An empty line means that a turn ends, so messages have none: several line breaks become
one, as BlinkDL's model cards advise (rwkv7-g1).

An answer ends at token 0, or where the model begins the user's next turn (an empty line and "User:"). This stop text is never shown,
even if it comes in several tokens. The state is kept from turn to turn, so nothing is read twice, with one small exception: a token
may hold both the end of an answer and the first line break of the stop text. Then the state before that token is kept, and the next
turn first reads the part of the token that was shown (`_tail`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.sampling import Sampler, SamplingConfig
from rwkvquant.runtime.session import END_OF_TEXT, Model
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.tuned import open_state
from rwkvquant.runtime.stopping import TextUntilStop
from rwkvquant.runtime.tokenizer_base import utf8

STOP = "\n\nUser:"


class Chat:
    """One conversation with a model. Penalties are counted within each answer; the random numbers continue from one answer to the next."""

    def __init__(self, model: Model, sampling: SamplingConfig | None = None, max_tokens: int = 512, system: str | None = None) -> None:
        """`max_tokens` limits each answer. `system` is read before the first message of a new conversation.

        Raises ConfigError if max_tokens is below 1, TokenizerError for a system text that is not Unicode.
        """
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1; got {max_tokens}")
        self.max_tokens = max_tokens
        self._model = model
        self._sampler = Sampler(sampling or SamplingConfig())
        self._state: State | None = None  # None: nothing has been said
        self._begin: State | None = None  # a tuned state, which the first message follows; None: token 0 is before it
        self._tail = ""
        self._system = _without_empty_lines(system or "")
        utf8(self._system)

    @property
    def begun(self) -> bool:
        """Whether anything was read: a message, or a saved conversation. After that, the system text is not read."""
        return self._state is not None

    @property
    def seed(self) -> int:
        """The seed of the random numbers: the one that was given, or the one that was drawn."""
        return self._sampler.seed

    def reply(self, message: str) -> Iterator[str]:
        """The answer to a message, in pieces as it grows. Close the iterator to stop early: the conversation has what was shown until then.

        Raises TokenizerError for a message that is not Unicode; then the conversation is unchanged.
        """
        turn = f"User: {_without_empty_lines(message)}\n\nAssistant:"
        if self._state is not None:
            tokens = self._model.tokenizer.encode(f"{self._tail}\n\n{turn}")
        else:
            tokens = self._beginning(f"System: {self._system}\n\n{turn}" if self._system else turn)
        logits, state = self._model.forward(tokens, self._begin if self._state is None else self._state)
        self._state, self._tail = state, ""
        self._sampler.forget()
        output = TextUntilStop(self._model.tokenizer.stream_decoder(), (STOP,))
        for _ in range(self.max_tokens):
            token = self._sampler.next(logits)
            if token == END_OF_TEXT:
                break
            logits, state = self._model.forward([token], state)
            piece = output.push(token)
            if output.holds_back:
                self._tail += piece
            else:
                self._state, self._tail = state, ""
            if piece:
                yield piece
            if output.stopped:
                return
        if rest := output.finish():
            self._tail += rest
            yield rest

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the conversation's state as states/files.py describes. Raises FormatError if the file cannot be written."""
        if self._state is None:
            tokens = self._beginning(f"System: {self._system}" if self._system else "")
            self._state = self._model.forward(tokens, self._begin)[1] if tokens else self._begin
            assert self._state is not None  # without tokens there is a tuned state
        if self._tail:
            _, self._state = self._model.forward(self._model.tokenizer.encode(self._tail), self._state)
            self._tail = ""
        self._state.save(path)

    def load(self, path: str | os.PathLike[str], order: str | None = None) -> None:
        """Continue a saved conversation, or begin a new one with a tuned state. The content of the file decides which it is.

        `order` is only for a tuned state, as in Model.tuned_state. Raises FormatError or CheckpointError for a file that is neither, or
        is another model's; then nothing changes.
        """
        opened = open_state(path, self._model.arch, self._model.dims, order)
        self._state, self._begin, self._tail = (None, opened.state, "") if opened.tuned else (opened.state, None, "")

    def _beginning(self, text: str) -> list[int]:
        """The first tokens of a conversation: token 0, or no token after a tuned state, and the text."""
        return [*([END_OF_TEXT] if self._begin is None else []), *self._model.tokenizer.encode(text)]


def _without_empty_lines(text: str) -> str:
    """Without space at both ends, and without lines that are empty or only space: "a\\n \\n\\n  b" -> "a\\n  b"."""
    return re.sub(r"\n(?:[ \t]*\n)+", "\n", text.replace("\r\n", "\n").strip())
