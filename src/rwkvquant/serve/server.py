"""Sockets and signals. The only file that imports uvicorn.

The first SIGTERM, SIGINT or SIGHUP stops taking new connections, and lets the answers that are being written finish, for at most `grace`
seconds. Then they end with an error. The second signal stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass

import uvicorn

from rwkvquant.errors import ConfigError
from rwkvquant.serve.app import make_app
from rwkvquant.serve.guard import Access
from rwkvquant.serve.jobs import Deliver, Piece
from rwkvquant.serve.scheduler import Scheduler
from rwkvquant.serve.service import Service

KEEP_ALIVE = 30  # seconds that an idle connection stays open
BACKLOG = 512
CLOSING = 5  # seconds to send the last bytes, after `grace`
SWITCH = 0.0005  # seconds after which the event loop lets the model's thread go on, even while it reads a long request
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@dataclass
class Loop:
    """Passes pieces from the scheduler's thread to the event loop, all of a step at once."""

    loop: asyncio.AbstractEventLoop | None = None

    def post(self, pieces: list[tuple[Deliver, Piece]]) -> None:
        if self.loop is not None and not self.loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it was closed in this moment
                self.loop.call_soon_threadsafe(self._deliver, pieces)

    @staticmethod
    def _deliver(pieces: list[tuple[Deliver, Piece]]) -> None:
        for deliver, piece in pieces:
            deliver(piece)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens. Raises ConfigError for an address or port that cannot be had."""
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"--host must be a name or an address of this machine; got {host} ({error})") from None
    family, kind, protocol, _, address = found[0]
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind(address)
        opened.listen(BACKLOG)
    except OSError as error:
        opened.close()
        raise ConfigError(f"port {port} of {host} cannot be used: {error.strerror}. Give another one with --port") from None
    return opened


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        """`run` handles signals."""
        yield


def run(service: Service, access: Access, opened: socket.socket, loop: Loop, grace: float, ready: Callable[[], None]) -> bool:
    """Serve until a signal -> whether every answer was complete. `loop` is that of the service's scheduler."""
    config = uvicorn.Config(
        make_app(service, access),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=round(grace) + CLOSING,
    )
    server = _Server(config)
    sys.setswitchinterval(SWITCH)
    return asyncio.run(_run(server, service.scheduler, opened, loop, grace, ready))


async def _run(server: _Server, scheduler: Scheduler, opened: socket.socket, loop: Loop, grace: float, ready: Callable[[], None]) -> bool:
    loop.loop = running = asyncio.get_running_loop()
    asked, complete = 0, True

    def ask() -> None:
        nonlocal asked
        asked += 1
        server.should_exit = True
        server.force_exit = asked > 1
        if asked == 1:
            running.call_later(grace, lambda: running.run_in_executor(None, end))

    def end() -> None:
        nonlocal complete
        complete = complete and scheduler.load == (0, 0)
        scheduler.close()

    with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C ends the loop
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                running.add_signal_handler(number, ask)
    scheduler.start()
    running.call_soon(ready)
    await server.serve(sockets=[opened])
    await asyncio.to_thread(end)
    return complete
