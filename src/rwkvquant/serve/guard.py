"""Who may use the server: in front of every path."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.metrics import Metrics
from rwkvquant.serve.sending import json_response

OPEN = ("/health", "/")  # need no key: the page is the same file for everyone, and asks for the key
ALLOWED = "GET, POST, DELETE, OPTIONS"


@dataclass(frozen=True)
class Access:
    """Who may ask. `keys`: any of them; none: everyone. `origins`: of pages in a browser that may read answers. `local`: loopback only."""

    keys: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    local: bool = True


class Guard:
    """In front of every path: the key, pages of other sites, CORS, and the count of requests.

    A server without a key on a loopback address answers only requests to a loopback name: otherwise a page from the web could reach it
    under its own name (DNS rebinding).
    """

    def __init__(self, app: ASGIApp, access: Access, metrics: Metrics, paths: set[str]) -> None:
        self._app, self._access, self._metrics, self._paths = app, access, metrics, paths
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
