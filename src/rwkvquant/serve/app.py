"""The paths of the server. Every answer that is not a success is JSON in the shape of OpenAI's errors, for unknown paths too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rwkvquant.serve import page
from rwkvquant.serve.body import Fields, parse
from rwkvquant.serve.chat import chat
from rwkvquant.serve.completions import completions
from rwkvquant.serve.errors import ApiError, api_error
from rwkvquant.serve.guard import Access, Guard
from rwkvquant.serve.metrics import Metrics
from rwkvquant.serve.others import delete_state, detokenize, embeddings, health, list_states, models, one_model, props, tokenize
from rwkvquant.serve.responses import responses
from rwkvquant.serve.schema import document
from rwkvquant.serve.sending import Answer, json_response
from rwkvquant.serve.service import Reply, Service

Handler = Callable[[Service, Fields, Mapping[str, str]], Coroutine[Any, Any, Reply]]

POSTS: dict[str, Handler] = {
    "/v1/chat/completions": chat,
    "/v1/completions": completions,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
    "/tokenize": tokenize,
    "/detokenize": detokenize,
    "/v1/state/delete": delete_state,
}
GETS: dict[str, Callable[[Service], dict[str, Any]]] = {
    "/health": health,
    "/v1/models": models,
    "/models": models,
    "/props": props,
    "/v1/state/list": list_states,
    "/openapi.json": lambda service: document(service.version),
}
METHODS = {"/v1/state/delete": ["POST", "DELETE"]}
MAX_STATE = 512 << 20  # bytes of a file that is uploaded


def make_app(service: Service, access: Access) -> ASGIApp:
    metrics = Metrics()
    routes = [Route(path, _post(service, handler), methods=METHODS.get(path, ["POST"])) for path, handler in POSTS.items()]
    routes += [Route(path, _get(service, handler), methods=["GET"]) for path, handler in GETS.items()]

    async def model(request: Request) -> Response:
        return json_response(one_model(service, request.path_params["name"]))

    async def measured(request: Request) -> Response:
        return Response(metrics.text(service.scheduler), media_type="text/plain; version=0.0.4")

    async def chat_page(request: Request) -> Response:
        return Response(page.page(), headers=page.headers(), media_type="text/html")

    async def upload(request: Request) -> Response:
        return json_response(service.states.upload(*await _uploaded(request)))

    routes += [Route("/v1/state/upload", upload, methods=["POST"]), Route("/", chat_page, methods=["GET"])]
    routes += [Route("/v1/models/{name:path}", model, methods=["GET"]), Route("/metrics", measured, methods=["GET"])]
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _error, ApiError: _error})
    return Guard(app, access, metrics, {route.path for route in routes})


def _get(service: Service, handler: Callable[[Service], dict[str, Any]]) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return json_response(handler(service))

    return endpoint


def _post(service: Service, handler: Handler) -> Callable[[Request], Awaitable[Any]]:
    async def endpoint(request: Request) -> ASGIApp:
        fields = parse(await _body(request, service.limits.max_body))
        return Answer(handler(service, fields, request.headers), service.limits.stall)

    return endpoint


async def _body(request: Request, most: int) -> bytes:
    """Raises ApiError for a body that is too long, without reading it all."""
    raw = bytearray()
    async for part in request.stream():
        raw += part
        if len(raw) > most:
            raise ApiError(f"the body of a request has at most {most} bytes on this server", 413, code="body_too_large")
    return bytes(raw)


async def _uploaded(request: Request) -> tuple[str, bytes]:
    """Name and bytes of a file: a form with `file`, or the bytes alone with the name in ?state_id= or X-State-Id."""
    name = request.query_params.get("state_id") or request.headers.get("x-state-id", "")
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return name, await _body(request, MAX_STATE)
    length = request.headers.get("content-length", "")
    if not length.isdigit() or int(length) > MAX_STATE:
        raise ApiError(f"an upload says its Content-Length, at most {MAX_STATE} bytes", 413, code="body_too_large")
    try:
        async with request.form(max_files=1, max_fields=4) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise ApiError("an upload is a form with `file`, or the bytes of the file alone", param="file")
            named = form.get("state_id")
            return name or (named if isinstance(named, str) else "") or file.filename or "", await file.read()
    except HTTPException as error:
        raise ApiError(f"the form cannot be read: {error.detail}") from None


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {
        404: f"there is no path {request.url.path} on this server",
        405: f"{request.url.path} does not take {request.method}",
    }.get(error.status_code, str(error.detail))
    known = ApiError(sentence, error.status_code, code="unknown_url" if error.status_code == 404 else None)
    return json_response(known.body(), known.status, error.headers)


async def _error(request: Request, error: Exception) -> Response:
    known = api_error(error)
    return json_response(known.body(), known.status)
