"""A conversation: `User: ...`, an empty line, `Assistant: ...`, an empty line, and so on, as BlinkDL's chat models are trained.

An answer ends at token 0, or where the model begins the user's next turn (an empty line and "User:"). This stop text is never shown,
even if it comes in several tokens. The state is kept from turn to turn, so nothing is read twice, with one small exception: a token
may hold both the end of an answer and the first line break of the stop text. Then the state before that token is kept, and the next
turn first reads the part of the token that was shown (`_tail`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.sampling import Sampler, SamplingConfig
from rwkvquant.runtime.session import END_OF_TEXT, Model
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.tuned import open_state
from rwkvquant.runtime.stopping import TextUntilStop

STOP = "\n\nUser:"


class Chat:
    """One conversation with a model. Penalties are counted within each answer; the random numbers continue from one answer to the next."""

    def __init__(self, model: Model, sampling: SamplingConfig | None = None, max_tokens: int = 512) -> None:
        """`max_tokens` limits each answer. Raises ConfigError below 1."""
        if max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1; got {max_tokens}")
        self.max_tokens = max_tokens
        self._model = model
        self._sampler = Sampler(sampling or SamplingConfig())
        self._state: State | None = None  # None: nothing has been said
        self._begin: State | None = None  # a tuned state, which the first message follows; None: token 0 is before it
        self._tail = ""

    @property
    def seed(self) -> int:
        """The seed of the random numbers: the one that was given, or the one that was drawn."""
        return self._sampler.seed

    def reply(self, message: str) -> Iterator[str]:
        """The answer to a message, in pieces as it grows. Close the iterator to stop early: the conversation has what was shown until then.

        Raises TokenizerError for a message that is not Unicode; then the conversation is unchanged.
        """
        message = message.replace("\r\n", "\n").strip()
        turn = f"User: {message}\n\nAssistant:"
        if self._state is not None:
            tokens = self._model.tokenizer.encode(f"{self._tail}\n\n{turn}")
        else:
            tokens = [*([END_OF_TEXT] if self._begin is None else []), *self._model.tokenizer.encode(turn)]
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
            self._state = self._begin or self._model.forward([END_OF_TEXT])[1]
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
