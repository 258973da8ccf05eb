"""How a conversation becomes text: the built-in templates by name, and Jinja templates from files that the user names."""

from rwkvquant.runtime.templates.base import ChatMessage, ChatTemplate
from rwkvquant.runtime.templates.builtin import TEMPLATES
from rwkvquant.runtime.templates.choose import chat_template

__all__ = ["TEMPLATES", "ChatMessage", "ChatTemplate", "chat_template"]
