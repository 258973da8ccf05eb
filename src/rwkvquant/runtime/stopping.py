"""Text that ends at a stop string, as it is streamed. `Model.stream`, `Model.generate` and `Chat` use it.

What may be the beginning of a stop string is held back until this is known, so no part of a stop string is ever passed on, even if
it comes in several tokens, or a token also holds text before or after it. Characters whose bytes are in several tokens are
held back until they are complete.

The stop string that is complete first ends the text; of several that are complete at the same character, the longest. So the result
does not depend on how the text is cut into tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.tokenizer_base import StreamDecoder, utf8


class TextUntilStop:
    """Ids one at a time to text, up to the first stop string. What all calls return, joined, is the text before it."""

    def __init__(self, decoder: StreamDecoder, stops: Sequence[str]) -> None:
        """`stops` as `stop_strings` returns them."""
        self._decoder = decoder
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """The text that may be passed on after this token, often none. Always none after a stop string."""
        return "" if self.stopped else self._take(self._decoder.push(token))

    @property
    def waiting(self) -> str:
        """The text that is held back because it may be the beginning of a stop string."""
        return self._held

    @property
    def holds_back(self) -> bool:
        """Whether the ids so far hold text that was not returned: the stop string, a possible beginning of one, part of a character."""
        return self.stopped or bool(self._held) or self._decoder.within_character

    def finish(self) -> str:
        """What is still held back when there are no more ids; U+FFFD if they ended within a character."""
        if self.stopped:
            return ""
        text = self._take(self._decoder.finish())
        return text if self.stopped else text + self._held

    def _take(self, text: str) -> str:
        text = self._held + text
        matches = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if matches:
            self.stopped = True
            _, start = min(matches)
            return text[:start]
        self._held = max((beginning_at_end(text, stop) for stop in self._stops), key=len, default="")
        return text.removesuffix(self._held)


def stop_strings(stop: str | Sequence[str]) -> tuple[str, ...]:
    """One stop string or several, checked.

    Raises ConfigError for an empty one or one that is not text, TokenizerError for half a surrogate pair.
    """
    stops = (stop,) if isinstance(stop, str) else tuple(stop)
    for each in stops:
        if not isinstance(each, str) or not each:
            raise ConfigError(f"a stop string is text of at least one character; got {each!r}")
        utf8(each)
    return stops


def beginning_at_end(text: str, stop: str) -> str:
    """The longest end of the text that is a beginning of `stop`: "so.\\n" and "\\n\\nUser:" -> "\\n"."""
    lengths = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((stop[:length] for length in lengths if text.endswith(stop[:length])), "")
