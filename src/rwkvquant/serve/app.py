"""The paths of the server. The only file that imports starlette.

Every answer that is not a success is JSON in the shape of OpenAI's errors, for unknown paths too. A client that leaves cancels its answers
at once, whether it streams or waits for the whole.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rwkvquant.serve import page
from rwkvquant.serve.body import Fields, parse
from rwkvquant.serve.chat import chat
from rwkvquant.serve.completions import completions
from rwkvquant.serve.errors import ApiError, api_error
from rwkvquant.serve.metrics import Metrics
from rwkvquant.serve.others import delete_state, detokenize, embeddings, health, list_states, models, one_model, props, tokenize
from rwkvquant.serve.responses import responses
from rwkvquant.serve.schema import document
from rwkvquant.serve.service import Reply, Service, Stream

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
OPEN = ("/health", "/")  # need no key: the page is the same file for everyone, and asks for the key
ALLOWED = "GET, POST, DELETE, OPTIONS"


@dataclass(frozen=True)
class Access:
    """Who may ask. `keys`: any of them; none: everyone. `origins`: of pages in a browser that may read answers. `local`: loopback only."""

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    local: bool = True


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
    return Guard(app, service, access, metrics, {route.path for route in routes})


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


class Answer:
    """Runs a handler, and sends what it gives: JSON, or events as they come. It stops where the client leaves."""

    def __init__(self, work: Coroutine[Any, Any, Reply], stall: float) -> None:
        self._work, self._stall = work, stall

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        since: float | None = None  # when the send began that is not done

        async def watched(message: Message) -> None:
            nonlocal since
            since = clock()
            await send(message)
            since = None

        answering = asyncio.create_task(self._answer(scope, receive, watched))
        leaving = asyncio.create_task(_left(receive))
        try:
            while not (await asyncio.wait({answering, leaving}, timeout=self._stall / 8, return_when=asyncio.FIRST_COMPLETED))[0]:
                if since is not None and clock() - since > self._stall:  # a client that takes nothing for a long time is given up
                    break
        finally:
            leaving.cancel()
            answering.cancel()  # does nothing to one that is done
        await asyncio.wait({answering})
        if not answering.cancelled() and (error := answering.exception()) is not None:
            raise error

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        begun = False
        try:
            reply = await self._work
            if not isinstance(reply, Stream):
                await json_response(reply)(scope, receive, send)
                return
            async with aclosing(reply.events) as events:
                async for event in events:
                    if not begun:
                        begun = True
                        await send({"type": "http.response.start", "status": 200, "headers": EVENT_HEADERS})
                    await send({"type": "http.response.body", "body": event_bytes(event), "more_body": True})
            await send({"type": "http.response.body", "body": b"data: [DONE]\n\n" if reply.done else b"", "more_body": False})
        except OSError:
            raise  # the client is gone
        except Exception as error:
            known = api_error(error)
            if begun:  # too late for a status
                await send({"type": "http.response.body", "body": event_bytes(known.body()), "more_body": False})
            else:
                await json_response(known.body(), known.status)(scope, receive, send)
            if known.code == "internal_error":
                raise


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


EVENT_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies pass events on at once
]


def event_bytes(event: dict[str, Any] | tuple[str, dict[str, Any]]) -> bytes:
    name, data = event if isinstance(event, tuple) else ("", event)
    return (f"event: {name}\n".encode() if name else b"") + b"data: " + json_bytes(data) + b"\n\n"


def json_bytes(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode("utf-8", errors="replace")


def json_response(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(json_bytes(value), status, dict(headers or {}), "application/json")


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


class Guard:
    """In front of every path: the key, pages of other sites, CORS, and the count of requests.

    A server without a key on a loopback address answers only requests to a loopback name: otherwise a page from the web could reach it
    under its own name (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, service: Service, access: Access, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._service, self._access, self._metrics, self._paths = app, service, access, metrics, paths
        self._keys = [key.encode() for key in access.keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin", "")
        cors = self._cors(origin)

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._metrics.count(path, message["status"])
                message["headers"] = [*message.get("headers", ()), *cors]
            await send(message)

        refused = self._refused(scope["path"], headers, origin)
        if refused is not None:
            await json_response(refused.body(), refused.status)(scope, receive, sending)
        elif scope["method"] == "OPTIONS" and cors:
            await Response(status_code=204)(scope, receive, sending)
        else:
            await self._app(scope, receive, sending)

    def _cors(self, origin: str) -> list[tuple[bytes, bytes]]:
        allowed = self._access.origins
        if not origin or not ("*" in allowed or origin in allowed):
            return []
        return [
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-allow-methods", ALLOWED.encode()),
            (b"access-control-allow-headers", b"authorization, content-type, x-session-id, x-state-id"),
            (b"vary", b"origin"),
        ]

    def _refused(self, path: str, headers: Mapping[str, str], origin: str) -> ApiError | None:
        host = headers.get("host", "")
        if origin and not self._cors(origin) and origin.partition("://")[2] != host:
            return ApiError(f"pages of {origin} may not use this server; its owner can allow it with --cors-origin", 403)
        if path == "/health":
            return None
        if self._keys:
            return (
                None
                if path in OPEN or self._has_key(headers)
                else ApiError("this server needs an API key: Authorization: Bearer KEY", 401, code="invalid_api_key")
            )
        if self._access.local and not is_local(host):
            return ApiError(f"this server answers requests to localhost only; got one to {host or 'no host'}", 403)
        return None

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = (key.strip() if kind.lower() == "bearer" else headers.get("x-api-key", "")).encode("latin-1", errors="replace")
        return any([hmac.compare_digest(given, known) for known in self._keys])  # all are compared, whichever is right


def is_local(host: str) -> bool:
    """Whether a Host header, with or without a port, names this machine itself."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost" or name.lower().endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def loopback(hosts: Sequence[str]) -> bool:
    return all(is_local(f"[{host}]" if ":" in host else host) for host in hosts)
