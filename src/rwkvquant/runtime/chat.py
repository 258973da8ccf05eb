"""A conversation: `User: ...`, an empty line, `Assistant: ...`, an empty line, and so on, as BlinkDL's chat models are trained.

An answer ends at token 0, or where the model begins the user's next turn (an empty line and "User:"), which is not passed on even
if it arrives split over tokens. The state goes from turn to turn, so that nothing is read twice, with one small exception: a
token may hold the end of an answer and the first line break of the stop text. The state kept is then the one before that token,
and the next turn first reads what was passed on of it (`_tail`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.sampling import Sampler, SamplingConfig
from rwkvquant.runtime.session import END_OF_TEXT, Model
from rwkvquant.runtime.states.files import State

STOP = "\n\nUser:"


class Chat:
    """One conversation with a model. Penalties are counted within each answer; the random numbers go on from one to the next."""

    def __init__(self, model: Model, sampling: SamplingConfig | None = None, max_tokens: int = 512) -> None:
        """`max_tokens` limits each answer. Raises ConfigError below 1."""
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1; got {max_tokens}")
        self.max_tokens = max_tokens
        self._model = model
        self._sampler = Sampler(sampling or SamplingConfig())
        self._state: State | None = None  # None: nothing has been said
        self._tail = ""

    def reply(self, message: str) -> Iterator[str]:
        """The answer to a message, in pieces as it grows. Close the iterator to stop early: what was passed on counts as said.

        Raises TokenizerError for a message that is not Unicode.
        """
        message = message.replace("\r\n", "\n").strip()
        turn = f"User: {message}\n\nAssistant:"
        if self._state is None:
            tokens = [END_OF_TEXT, *self._model.tokenizer.encode(turn)]
        else:
            tokens = self._model.tokenizer.encode(f"{self._tail}\n\n{turn}")
        logits, state = self._model.forward(tokens, self._state)
        self._state, self._tail = state, ""
        self._sampler.forget()
        decoder = self._model.tokenizer.stream_decoder()
        held = ""  # what may be the beginning of STOP is not passed on before that is decided
        for _ in range(self.max_tokens):
            token = self._sampler.next(logits)
            if token == END_OF_TEXT:
                break
            logits, state = self._model.forward([token], state)
            text, stop, _ = (held + decoder.push(token)).partition(STOP)
            held = "" if stop else _beginning_of_stop(text)
            piece = text.removesuffix(held)
            if stop or held or decoder.within_character:
                self._tail += piece
            else:
                self._state, self._tail = state, ""
            if piece:
                yield piece
            if stop:
                return
        if rest := held + decoder.finish():
            self._tail += rest
            yield rest

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the conversation's state. Raises FormatError if the file cannot be written."""
        if self._state is None:
            _, self._state = self._model.forward([END_OF_TEXT])
        if self._tail:
            _, self._state = self._model.forward(self._model.tokenizer.encode(self._tail), self._state)
            self._tail = ""
        self._state.save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from a saved conversation. Raises FormatError for a file that is none, or another model's; then nothing changes."""
        state = State.load(path)
        state.require(self._model.arch, self._model.dims)
        self._state, self._tail = state, ""


def _beginning_of_stop(text: str) -> str:
    """The longest end of the text with which STOP begins: "so.\\n" -> "\\n"."""
    return next((STOP[:length] for length in range(len(STOP) - 1, 0, -1) if text.endswith(STOP[:length])), "")
