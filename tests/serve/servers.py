"""A real server in another process, and small helpers to talk to it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO, Any

MODEL = Path(__file__).parents[1] / "data" / "rwkv7-tiny-rtn4.safetensors"
STORY = "The old man looked out of the window and said"


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def said(self) -> str:
        self.log.seek(0)
        return self.log.read().decode()

    def ask(
        self, path: str, body: Any = None, method: str | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, Any, dict[str, str]]:
        """-> status, JSON (or text), headers. A body that is bytes is sent as it is."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        raw = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        connection.request(method or ("GET" if body is None else "POST"), path, raw, {"content-type": "application/json"} | (headers or {}))
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        named = {name.lower(): value for name, value in answer.getheaders()}
        return answer.status, json.loads(text) if named.get("content-type") == "application/json" else text, named

    def complete(self, prompt: Any = STORY, **fields: Any) -> dict[str, Any]:
        status, answer, _ = self.ask("/v1/completions", {"prompt": prompt, "temperature": 0, **fields})
        assert status == 200, answer
        return answer  # type: ignore[no-any-return]

    def text(self, prompt: Any = STORY, **fields: Any) -> str:
        return self.complete(prompt, **fields)["choices"][0]["text"]  # type: ignore[no-any-return]

    def chat(self, messages: Any, **fields: Any) -> dict[str, Any]:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        status, answer, _ = self.ask("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 8, **fields})
        assert status == 200, answer
        return answer  # type: ignore[no-any-return]

    def events(self, path: str, body: Any, headers: dict[str, str] | None = None) -> list[Any]:
        """The data of all events; "[DONE]" is the last."""
        status, text, _ = self.ask(path, {**body, "stream": True}, headers=headers)
        assert status == 200, text
        return [each if each == "[DONE]" else json.loads(each) for each in re.findall(r"^data: (.*)$", text, re.MULTILINE)]

    def metrics(self) -> dict[str, float]:
        _, text, _ = self.ask("/metrics")
        lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("rwkvquant_"): float(value) for name, value in lines}

    def begin(self, path: str, body: Any) -> socket.socket:
        """A request on a bare socket, whose answer is not read."""
        raw = json.dumps(body).encode()
        opened = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        opened.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
        return opened


@contextmanager
def serving(*options: str, model: Path = MODEL, slots: int = 4) -> Iterator[Server]:
    """A server until the end of the context; then it must end well."""
    log = tempfile.TemporaryFile()  # noqa: SIM115
    command = [sys.executable, "-m", "rwkvquant", "serve", str(model), "--port", "0", "--slots", str(slots), "--threads", "1", *options]
    defaults = lambda: [signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM)]  # noqa: E731
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=defaults)
    server = Server(process, log, 0)
    try:
        while not (found := re.search(r"http://\S+:(\d+)/v1", server.said())):
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
                raise AssertionError(server.said())
        server.port = int(found[1])
        yield server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
        process.kill()
        process.wait()
