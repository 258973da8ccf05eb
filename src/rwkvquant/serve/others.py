"""The small paths: models, health, properties, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.tokenizer_base import token_ids
from rwkvquant.serve.body import Fields
from rwkvquant.serve.conversation import read_prompt
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.messages import read_messages
from rwkvquant.serve.service import Reply, Service, identifier
from rwkvquant.serve.tools import read_tools


def models(service: Service) -> dict[str, Any]:
    """`data` as OpenAI has it; `models` for clients that look there."""
    named = {"name": service.name, "model": service.name, "slug": service.name, "display_name": service.name, "type": "model"}
    return {"object": "list", "data": [_model(service)], "models": [named]}


def one_model(service: Service, name: str) -> dict[str, Any]:
    """Raises ApiError for another model."""
    if name != service.name:
        raise ApiError(f"the model here is {service.name}; got {name[:100]!r}", 404, param="model", code="model_not_found")
    return _model(service)


def _model(service: Service) -> dict[str, Any]:
    return {"id": service.name, "object": "model", "created": service.created, "owned_by": "rwkvquant"}


def health(service: Service) -> dict[str, Any]:
    """Raises ApiError when the thread that owns the model has ended."""
    if not service.scheduler.alive:
        raise ApiError("the model's thread has ended; start the server again", 503, code="not_ready")
    return {"status": "ok"}


def props(service: Service) -> dict[str, Any]:
    """What this server is: for pages and for people."""
    model, limits, scheduler = service.model, service.limits, service.scheduler
    running, waiting = scheduler.load
    state = model.initial_state().recurrent
    return {
        "model": service.name,
        "file": None if service.file is None else asdict(service.file),
        "arch": model.arch,
        "layers": model.dims.layers,
        "width": model.dims.width,
        "vocab": model.dims.vocab,
        "state_bytes": sum(array.nbytes for array in state.arrays),
        "backend": model.backend,
        "threads": model.threads,
        "chat_template": service.template.name,
        "thinking": list(service.template.thinking),
        "slots": scheduler.slots,
        "running": running,
        "waiting": waiting,
        "cache": {"states": len(scheduler.prefixes), "bytes": scheduler.prefixes.nbytes, "max_bytes": scheduler.prefixes.max_bytes},
        "limits": {
            "max_tokens": limits.max_tokens,
            "max_prompt": limits.max_prompt,
            "max_body": limits.max_body,
            "timeout": limits.timeout,
        },
        "defaults": {"temperature": service.defaults.temperature, "top_p": service.defaults.top_p},
        "version": service.version,
    }


async def tokenize(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """`content` (or `text`, `prompt`) or `messages` to token ids."""
    if fields.get("messages") is not None:
        prompt = read_prompt(service, fields, read_messages(fields), service.begin(fields, headers), read_tools(fields))
        tokens = list(prompt.tokens[prompt.added :])
    else:
        name = next((name for name in ("content", "text", "prompt") if fields.get(name) is not None), "content")
        tokens = service.encode(fields.text(name), name)
    return {"tokens": tokens, "count": len(tokens)}


async def detokenize(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """`tokens` to `content`."""
    tokens = fields.get("tokens")
    if not isinstance(tokens, list):
        raise fields.error("tokens", "must be a list of token ids")
    try:
        text = service.model.tokenizer.decode(token_ids(tokens, service.model.dims.vocab))
    except RwkvQuantError as error:
        raise ApiError(str(error), param="tokens") from None
    return {"content": text, "text": text}


async def embeddings(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """Refused as OpenAI refuses a model that makes none."""
    sentence = f"You are not allowed to generate embeddings from this model: {service.name} writes text and makes no embeddings"
    raise ApiError(sentence, 403, param="model")


async def delete_state(service: Service, fields: Fields, headers: Mapping[str, str]) -> Reply:
    """`state_id` of an uploaded state, or `session_id` of a session. Raises ApiError for an unknown one."""
    for name, kept in (("state_id", service.states), ("session_id", service.sessions)):
        if which := identifier(fields, headers, name):
            if not kept.delete(which):
                raise ApiError(f"there is no {name} {which[:100]!r}", 404, param=name, code="state_not_found")
            return {"object": "rwkv.state.deleted", name: which, "deleted": True}
    raise ApiError("a state_id or a session_id is needed", param="state_id")


def list_states(service: Service) -> dict[str, Any]:
    return {"object": "list", "data": service.states.list(), "sessions": service.sessions.list()}
