"""From what a user said, a name or a file, to a template."""

from __future__ import annotations

import json
import os
from pathlib import Path

from rwkvquant.errors import ConfigError
from rwkvquant.runtime.templates.base import ChatTemplate
from rwkvquant.runtime.templates.builtin import TEMPLATES

MAX_BYTES = 1 << 20  # of a file with a template; those of Hugging Face have a few thousand


def chat_template(spec: str | os.PathLike[str]) -> ChatTemplate:
    """A built-in template by its name, or the Jinja template in a file.

    The file holds the template alone (chat_template.jinja), or is a tokenizer_config.json with `chat_template`. No other file is looked
    for: a template is a program, so only the one that the user names is run, in Jinja's sandbox.
    Raises ConfigError for an unknown name, a file that cannot be read or has no template, a syntax error, and without the jinja2 package.
    """
    if spec in TEMPLATES:
        return TEMPLATES[str(spec)]
    path = Path(spec)
    source = _source(path)
    from rwkvquant.runtime.templates.jinja import jinja_template

    return jinja_template(source, str(path))


def _source(path: Path) -> str:
    names = ", ".join(TEMPLATES)
    if path.is_dir():
        raise ConfigError(f"a chat template is one of {names}, or a Jinja file; {path} is a folder. Give a file in it: chat_template.jinja")
    try:
        with open(path, "rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"a chat template is one of {names}, or a Jinja file; there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the chat template {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"a file with a chat template has at most {MAX_BYTES} bytes; {path} has more")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"a chat template is text in UTF-8; byte {error.start} of {path} is not") from None
    return _in_json(text, path) if path.suffix == ".json" else text


def _in_json(text: str, path: Path) -> str:
    """`chat_template` of a tokenizer_config.json: a string, or a list of named ones, of which "default" is taken."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{path} is not JSON, although its name says so; a Jinja template alone is in a .jinja or .txt file") from None
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):
        named = [entry for entry in found if isinstance(entry, dict) and entry.get("name") == "default"]
        found = named[0].get("template") if named else None
    if not isinstance(found, str):
        raise ConfigError(f"{path} has no chat_template, which is a string; it may be in a file chat_template.jinja next to it")
    return found
