"""States that clients upload, and sessions.

An uploaded state is a tuned one, or one that was saved; a request with its `state_id` begins there. A session is the conversation, or the
tokens, of earlier requests with its `session_id`: a request gives what is new. The server reads only that, where the state of the rest is
in the cache of prefixes, and gives the answer that it would give to the whole.
"""

from __future__ import annotations

import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.runtime.session import Model
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.states.tuned import open_state
from rwkvquant.serve.errors import ApiError
from rwkvquant.serve.jobs import Begin

MAX_STATES, MAX_SESSIONS, MAX_SESSION_BYTES = 64, 10_000, 256 << 20
NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
SESSION = re.compile(r"[\x21-\x7e]{1,200}")


@dataclass(frozen=True)
class Uploaded:
    """`key` is new for each upload, so that nothing is found that an earlier state of this name has left."""

    state: State
    tuned: bool
    created: int
    key: str

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self.state.recurrent.arrays)


class UploadedStates:
    """By name. Used by the event loop alone."""

    def __init__(self, model: Model) -> None:
        self._model = model
        self.kept: dict[str, Uploaded] = {}

    def upload(self, name: str, raw: bytes) -> dict[str, Any]:
        """Read the bytes of a file. Raises ApiError for a name that is taken or impossible, too many states, or no state of this model."""
        name = re.split(r"[/\\]", name)[-1]
        if not NAME.fullmatch(name) or not name.strip("."):
            raise ApiError("the name of a state has 1 to 100 letters, digits, dots, dashes and underlines", param="state_id")
        if name in self.kept:
            raise ApiError(f"the state {name} already exists; delete it first, or use another name", 409, param="state_id")
        if len(self.kept) >= MAX_STATES:
            raise ApiError(f"this server keeps at most {MAX_STATES} uploaded states; delete one", 409)
        with TemporaryDirectory(prefix="rwkvquant-state-") as folder:
            path = Path(folder) / ("state.pth" if raw[:2] in (b"PK", b"\x80\x02") else "state.safetensors")
            path.write_bytes(raw)
            try:
                opened = open_state(path, self._model.arch, self._model.dims)
            except RwkvQuantError as error:
                raise ApiError(str(error).replace(str(path), name), param="file") from None
        self.kept[name] = Uploaded(opened.state, opened.tuned, int(time.time()), f"state:{secrets.token_hex(8)}")
        return self._describe(name)

    def begin(self, name: str) -> Begin:
        """Raises ApiError for an unknown one."""
        if name not in self.kept:
            raise ApiError(f"there is no uploaded state {name[:100]!r}", 404, param="state_id", code="state_not_found")
        return Begin(self.kept[name].key, self.kept[name].state)

    def delete(self, name: str) -> bool:
        return self.kept.pop(name, None) is not None

    def list(self) -> list[dict[str, Any]]:
        return [self._describe(name) for name in self.kept]

    def _describe(self, name: str) -> dict[str, Any]:
        kept = self.kept[name]
        about = {"object": "rwkv.state", "state_id": name, "filename": name, "size_bytes": kept.nbytes}
        return about | {"tuned": kept.tuned, "created": kept.created}


@dataclass
class Session:
    """`messages` of chats, `tokens` of completions; one of them is used. `state_id`: what it began with."""

    messages: list[dict[str, Any]] = field(default_factory=list)
    tokens: tuple[int, ...] = ()
    state_id: str = ""

    @property
    def nbytes(self) -> int:
        return sum(200 + len(str(message)) for message in self.messages) + 8 * len(self.tokens)


class Sessions:
    """By name; what was not used for the longest time is forgotten. Used by the event loop alone."""

    def __init__(self, max_bytes: int = MAX_SESSION_BYTES) -> None:
        self.max_bytes = max_bytes
        self.kept: OrderedDict[str, Session] = OrderedDict()
        self._busy: set[str] = set()
        self._nbytes = 0

    def open(self, name: str) -> Session:
        """The session, to be given back by `close`; a new one if the name is not known. Raises ApiError while another request has it."""
        if not SESSION.fullmatch(name):
            raise ApiError("a session_id has 1 to 200 printable ASCII characters without spaces", param="session_id")
        if name in self._busy:
            raise ApiError(f"the session {name} is answering another request; wait for its end", 409, param="session_id")
        self._busy.add(name)
        return self.kept.get(name, Session())

    def close(self, name: str, after: Session | None) -> None:
        """`after`: what it is now; None: as before, because the answer did not end."""
        self._busy.discard(name)
        if after is None:
            return
        self.delete(name)
        self.kept[name] = after
        self._nbytes += after.nbytes
        while len(self.kept) > MAX_SESSIONS or (self._nbytes > self.max_bytes and len(self.kept) > 1):
            self.delete(next(iter(self.kept)))

    def delete(self, name: str) -> bool:
        """Raises nothing for an unknown one."""
        session = self.kept.pop(name, None)
        self._nbytes -= session.nbytes if session else 0
        return session is not None

    def list(self) -> list[dict[str, Any]]:
        return [{"object": "rwkv.session", "session_id": name, "size_bytes": each.nbytes} for name, each in self.kept.items()]
