"""How an answer is sent: as JSON, or as events while it grows.

A client that leaves cancels its answers at once, whether it streams or waits for the whole.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from rwkvquant.serve.errors import api_error
from rwkvquant.serve.service import Reply, Stream


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
