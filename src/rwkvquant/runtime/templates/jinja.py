"""Chat templates in Jinja, as Hugging Face's `chat_template`. The only file of the runtime that imports jinja2.

A template is a program. It runs in Jinja's sandbox, which lets it change nothing and reach nothing but the messages, and only a file that
the user named comes here. It sees what templates of Hugging Face expect:

    messages                [{"role": ..., "content": ...}, ...]; an answer that began with thinking has it, in <think> ... </think>;
                            with tools also `tool_calls`, `tool_call_id` and the role "tool"
    tools                   functions that the model may call, or none
    add_generation_prompt   True where the model answers next
    bos_token, eos_token    the end of a text, which is token 0
    enable_thinking         true or false, where the user said how to think
    raise_exception(text), strftime_now(format), and the filter tojson
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.templates.base import ChatMessage, ChatTemplate

END_MARK = "\ufdd0"  # stands for token 0 until the text becomes tokens: a code point that is no character, so no text has it
END_NAMES = ("<|endoftext|>", "<|rwkv_tokenizer_end_of_text|>")  # as templates for RWKV may write token 0 themselves
THINKING = {"on": True, "none": False}


class _RefusalError(Exception):
    """What the template itself raised."""


def jinja_template(source: str, name: str) -> ChatTemplate:
    """A template from its text; `name` is for messages. Raises ConfigError for a syntax error and without the jinja2 package."""
    try:
        import jinja2
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise ConfigError(
            f"the chat template {name} is a Jinja file, which needs the jinja2 package; install it: pip install 'rwkv-hybridquant[jinja2]'"
        ) from None

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    for end in END_NAMES:
        source = source.replace(end, END_MARK)
    try:
        compiled = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the chat template {name} is not valid Jinja: line {error.lineno}: {error.message}") from None
    except (RecursionError, MemoryError, ValueError) as error:
        raise ConfigError(f"the chat template {name} cannot be compiled: {type(error).__name__}: {error}") from None

    def rendering(messages: Sequence[ChatMessage], think: str | None, answer_next: bool, tools: Sequence[Any] | None = None) -> str:
        plain = _without_mark(list(messages))
        choice = {} if think is None else {"enable_thinking": THINKING[think]}
        try:
            return compiled.render(
                messages=plain,
                add_generation_prompt=answer_next,
                bos_token=END_MARK,
                eos_token=END_MARK,
                tools=_without_mark(tools),
                documents=None,
                **choice,
            )
        except _RefusalError as error:
            raise ConfigError(f"the chat template {name} refuses these messages: {error}") from None
        except Exception as error:  # a template is a program, which may fail in any way
            raise ConfigError(f"the chat template {name} failed: {type(error).__name__}: {error}") from None

    return ChatTemplate(name, _stops(rendering), rendering, thinking=tuple(THINKING), end_mark=END_MARK, knows_tools=True)


def _without_mark(value: Any) -> Any:
    """The same value without END_MARK in its texts: what users write never becomes token 0."""
    if isinstance(value, str):
        return value.replace(END_MARK, "")
    if isinstance(value, dict):
        return {_without_mark(key): _without_mark(part) for key, part in value.items()}
    return [_without_mark(part) for part in value] if isinstance(value, list | tuple) else value


def _stops(rendering: Any) -> tuple[str, ...]:
    """What follows an answer in the template's own text: the end of the turn ("<|im_end|>"), or the user's next turn ("\\n\\nUser:").

    None where the template writes token 0 there, or refuses the messages that find it out.
    """
    question, answer, next_question = "a question", "an answer", "the next question"
    said: list[ChatMessage] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    for messages in (said, [*said, ChatMessage(role="user", content=next_question)]):
        try:
            text = rendering(messages, None, False)
        except ConfigError:
            continue
        after = text.rpartition(answer)[2].partition(next_question)[0] if answer in text else ""
        if END_MARK in after:
            return ()
        if after.strip():
            return (after.rstrip() if messages is not said else after.strip(),)
    return ()


def _refuse(message: str) -> None:
    raise _RefusalError(message)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    """Jinja's own filter escapes characters of HTML, which a model should see as they are."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
