"""Answers that must be JSON, or calls of tools. The only file that imports llguidance, which keeps what may come next.

A grammar of llguidance reads tokens as bytes. So a token that no text has gets bytes that no text has.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.session import END_OF_TEXT
from rwkvquant.runtime.tokenizer_base import Tokenizer
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.tools import CALL_CLOSE, CALL_OPEN, Tool

SPACES = {"whitespace_pattern": r"[ \n]{0,4}"}  # between the parts of JSON: a model could write spaces for ever
MAX_SCHEMA = 1 << 18  # characters


class Grammars:
    """Makes constraints for one tokenizer. Without llguidance, ApiError says what to install."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer, self._vocab = tokenizer, vocab
        self._made: Any = None

    def json(self, schema: Any, param: str) -> Grammar:
        """JSON that fits the schema. Raises ApiError for a schema that cannot be used."""
        return self._grammar(f'start: " "? answer\nanswer: %json {_schema(schema, param)}', param)

    def call(self, tools: Sequence[Tool], param: str) -> Grammar:
        """One call of one of these tools, in the form of tools.py."""
        calls = [
            {
                "type": "object",
                "properties": {"name": {"const": tool.name}, "arguments": tool.parameters or {"type": "object"}},
                "required": ["name", "arguments"],
                "additionalProperties": False,
            }
            for tool in tools
        ]
        schema = _schema({"anyOf": calls} if len(calls) > 1 else calls[0], param)
        return self._grammar(f'start: " "? "{CALL_OPEN}" call "{CALL_CLOSE}"\ncall: %json {schema}', param)

    def _grammar(self, lark: str, param: str) -> Grammar:
        if self._made is None:
            self._made = self._tokens()
        import llguidance

        grammar = llguidance.LLMatcher.grammar_from_lark(lark)
        if wrong := llguidance.LLMatcher.validate_grammar(grammar, self._made):
            reason = wrong.split("\n")[0].partition("failed to compile JSON schema: ")[2] or wrong.split("\n")[0]
            raise ApiError(f"{param} cannot be used: {reason[:300]}", param=param)
        return Grammar(llguidance.LLMatcher(self._made, grammar, log_level=0), self._vocab)

    def _tokens(self) -> Any:
        try:
            import llguidance
        except ImportError:
            raise ApiError(
                "response_format and tool_choice need the package llguidance: pip install 'rwkv-hybridquant[serve]'", 501
            ) from None
        return llguidance.LLTokenizer(llguidance.TokenizerWrapper(_Tokens(self._tokenizer, self._vocab)))


class Grammar:
    """A Constraint (choosing.py). Used once."""

    def __init__(self, matcher: Any, vocab: int) -> None:
        self._matcher, self._vocab = matcher, vocab

    def allowed(self) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        mask = np.unpackbits(bits, count=self._vocab, bitorder="little").view(np.bool_)
        if self._matcher.is_error():
            raise ConfigError(f"the grammar of an answer became too complex: {self._matcher.get_error()[:300]}")
        return mask

    def take(self, token: int) -> None:
        if token != END_OF_TEXT:
            self._matcher.consume_token(token)

    @property
    def ended(self) -> bool:
        return bool(self._matcher.is_stopped())


class _Tokens:
    """What llguidance asks of a tokenizer."""

    eos_token_id, bos_token_id = END_OF_TEXT, None

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer = tokenizer
        known = [tokenizer.decode_bytes([token]) for token in range(vocab)]
        self.tokens = [raw or b"\xff[%d]" % token for token, raw in enumerate(known)]
        self.special_token_ids = [token for token, raw in enumerate(known) if not raw]

    def __call__(self, text: bytes | str) -> list[int]:
        return self._tokenizer.encode(text.decode("utf-8", errors="replace") if isinstance(text, bytes) else text)


def _schema(schema: Any, param: str) -> str:
    """As one line, with our rule for spaces. Raises ApiError for what is no schema, or a long one."""
    if isinstance(schema, bool):
        schema = {} if schema else {"enum": []}
    if not isinstance(schema, dict):
        raise ApiError(f"{param} must be an object with a JSON schema", param=param)
    text = json.dumps({**schema, "x-guidance": SPACES})
    if len(text) > MAX_SCHEMA:
        raise ApiError(f"{param} has at most {MAX_SCHEMA} characters on this server; got {len(text)}", param=param)
    return text
