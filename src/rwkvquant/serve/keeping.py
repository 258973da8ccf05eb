"""What a server knows, in a folder, over a restart: cached prefixes, uploaded states, sessions.

It is written when the server stops, and read when the next one starts with the same model file on the same kind of CPU: states of
another model, or other bits, would give wrong answers. What cannot be read is left out, with a sentence. Conversations can be read from
these files, so only their owner may.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from rwkvquant.errors import FormatError, RwkvQuantError
from rwkvquant.formats.disk import replace_file
from rwkvquant.runtime.session import Model
from rwkvquant.runtime.states.files import State
from rwkvquant.serve.prefixes import Prefixes
from rwkvquant.serve.service import Service
from rwkvquant.serve.states import Session, Uploaded

INDEX, VERSION = "index.json", 1
EDGE = 4 << 20  # bytes at both ends of a model file that its fingerprint reads; the header of a packed file has checksums of the rest


def fingerprint(model: Model, file: str, version: str) -> str:
    """Differs where states may differ."""
    digest = hashlib.sha256(repr((VERSION, version, model.arch, model.backend, os.environ.get("RWKVQUANT_ACTIVATIONS"))).encode())
    parts = sorted(path for path in Path(file).rglob("*") if path.is_file()) if Path(file).is_dir() else [Path(file)]
    for path in parts:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with open(path, "rb") as opened:
            digest.update(opened.read(EDGE))
            opened.seek(max(0, size - EDGE))
            digest.update(opened.read(EDGE))
    return digest.hexdigest()


def write(folder: Path, service: Service, prefixes: Prefixes, mark: str) -> None:
    """Replace what is in the folder. Raises RwkvQuantError where the disk refuses; the index is written last, and names all files."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    known = {kept.key for kept in service.states.kept.values()}
    index: dict[str, Any] = {"version": VERSION, "fingerprint": mark, "prefixes": [], "states": [], "sessions": []}
    names = set()
    for number, (key, tokens, entry) in enumerate(prefixes):
        if key and key not in known:
            continue  # its state was deleted
        name = f"prefix-{number}.safetensors"
        entry.state.save(folder / name)
        names.add(name)
        described: dict[str, Any] = {"key": key, "tokens": tokens, "file": name}
        if entry.logits is not None:
            described["logits"] = f"logits-{number}.f32"
            names.add(described["logits"])
            replace_file(folder / described["logits"], np.ascontiguousarray(entry.logits, "<f4").tobytes())
        index["prefixes"].append(described)
    for number, (called, kept) in enumerate(service.states.kept.items()):
        name = f"state-{number}.safetensors"
        kept.state.save(folder / name)
        names.add(name)
        index["states"].append({"name": called, "file": name, "tuned": kept.tuned, "created": kept.created, "key": kept.key})
    for called, session in service.sessions.kept.items():
        told = {"name": called, "messages": session.messages, "tokens": session.tokens, "state_id": session.state_id}
        index["sessions"].append(told)
    replace_file(folder / INDEX, json.dumps(index).encode())
    for path in folder.glob("*-*.*"):
        if path.name not in names and path.name.startswith(("prefix-", "logits-", "state-")):
            with suppress(OSError):
                path.unlink()


def read(folder: Path, service: Service, prefixes: Prefixes, mark: str) -> str:
    """Take what the folder has -> a sentence about it, for people. Raises nothing for what is missing, damaged or another model's."""
    if not (folder / INDEX).exists():
        return f"{folder} has no states yet"
    try:
        index = json.loads((folder / INDEX).read_bytes())
        if index["version"] != VERSION or index["fingerprint"] != mark:
            return f"{folder} has states of another model, file or CPU, which are not used"
        return _taken(folder, index, service, prefixes)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RwkvQuantError) as error:
        prefixes.clear()
        return f"{folder} is damaged and not used ({type(error).__name__}: {error})"


def _taken(folder: Path, index: dict[str, Any], service: Service, prefixes: Prefixes) -> str:
    model = service.model
    for told in index["states"]:
        state = _state(folder / str(told["file"]), model)
        service.states.kept[str(told["name"])] = Uploaded(state, bool(told["tuned"]), int(told["created"]), str(told["key"]))
    for told in index["sessions"]:
        session = Session(list(told["messages"]), tuple(map(int, told["tokens"])), str(told["state_id"]))
        service.sessions.close(str(told["name"]), session)
    for told in index["prefixes"]:
        logits = None
        if "logits" in told:
            logits = np.fromfile(folder / str(told["logits"]), "<f4")
            if logits.shape != (model.dims.vocab,) or not np.isfinite(logits).all():
                raise FormatError(f"{told['logits']} has not one finite number for each token")
        prefixes.put(str(told["key"]), tuple(map(int, told["tokens"])), _state(folder / str(told["file"]), model), logits)
    return f"{folder}: {len(prefixes)} cached prefixes, {len(service.states.kept)} states, {len(service.sessions.kept)} sessions"


def _state(path: Path, model: Model) -> State:
    state = State.load(path)
    state.require(model.arch, model.dims)
    return state
