"""What a chat template is. The built-in ones are in builtin.py, a Jinja template is made into one by jinja.py."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

from rwkvquant.errors import ConfigError

Role = Literal["system", "user", "assistant"]


class ChatMessage(TypedDict):
    """One part of a conversation, as in other tools: {"role": "user", "content": "Hi"}. Roles are system, user and assistant."""

    role: Role
    content: str


Rendering = Callable[..., str]  # messages, how to think, whether the model answers next[, tools] -> text


@dataclass(frozen=True)
class ChatTemplate:
    """How a conversation becomes the text that a model reads, and where an answer ends.

    `name`: a built-in name, or the path of a Jinja file.
    `stop`: an answer ends before any of these texts; it ends at token 0 too.
    `opening`: messages that begin a conversation which has no system text and no tuned state.
    `thinking`: the ways to think that a user may choose, the default first. Empty: answers have no thinking.
    `separator`: the text between two turns, with which a saved conversation continues. None: only whole conversations become text.
    `end_mark`: a character that stands for token 0 in the text. Empty: the text has no such place.
    `max_tokens`: the longest answer, with its thinking, where the user does not say.
    `about`: what it is, in a few words, for the help.
    `knows_tools`: `rendering` takes tools as a fourth argument, and messages with `tool_calls` and of the role "tool".
    """

    name: str
    stop: tuple[str, ...]
    rendering: Rendering = field(repr=False)
    opening: tuple[ChatMessage, ...] = ()
    thinking: tuple[str, ...] = ()
    separator: str | None = None
    end_mark: str = ""
    max_tokens: int = 512
    about: str = ""
    knows_tools: bool = False

    @property
    def keeps_answers(self) -> bool:
        """Whether the model sees its earlier answers exactly as it wrote them. False: they become text again, without thinking."""
        return self.separator is not None and not self.thinking

    def render(
        self, messages: Sequence[ChatMessage], think: str | None = None, answer_next: bool = True, tools: Sequence[Any] | None = None
    ) -> str:
        """The text of a conversation. With `answer_next` it ends where the model begins its answer.

        `tools`: functions as OpenAI describes them, only for a template that `knows_tools`.

        `think` is one of `thinking`; None leaves the choice to the template. Raises ConfigError for another one, for a role that the
        template does not know, and where a Jinja template fails.
        """
        self.require_think(think)
        return self.rendering(messages, think, answer_next, tools) if tools else self.rendering(messages, think, answer_next)

    def tokens(self, text: str, encode: Callable[[str], list[int]]) -> list[int]:
        """The tokens of a rendered text: `encode` of its parts, and token 0 where `end_mark` is."""
        if not self.end_mark:
            return encode(text)
        first, *others = text.split(self.end_mark)
        return [*encode(first), *(token for part in others for token in (0, *encode(part)))]

    def require_think(self, think: str | None) -> None:
        """Raises ConfigError for a way to think that this template does not have."""
        if think is None or think in self.thinking:
            return
        if not self.thinking:
            raise ConfigError(f"the chat template {self.name} has no thinking; got think={think}. Use the template g1 or a Jinja file.")
        raise ConfigError(f"the chat template {self.name} thinks in one of the ways {', '.join(self.thinking)}; got {think}")
