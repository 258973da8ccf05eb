"""The work directory of the laboratory.

    cells/NAME-KEY.json   one cell: question, conditions, results or an error; KEY is a hash of the question
    specs/NAME.json       the rows of each specification that was run here, for `lab tables`
    work/MODEL/           the work directory of the quantiser, in which hybrids of one model share pass 1
    files/                packed files, until they are measured
    tables/               what `lab tables` writes
    lock                  held by the one process that works here

A question is all that decides the result: model, tokenizer, request, texts, by their contents. So a cell that two specifications have
is measured once, and a renamed row keeps its number. Versions and machine are not part of the question: they are conditions, which the
cell keeps, and `lab tables` says where they differ.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rwkvquant.errors import RwkvQuantError
from rwkvquant.formats.disk import replace_file

VERSION = 1  # of a cell's file


@dataclass(frozen=True)
class Store:
    path: Path

    def folder(self, name: str) -> Path:
        folder = self.path / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def read(self, key: str) -> dict[str, Any] | None:
        """The cell with this key, or None. One that is damaged is as one that is not there."""
        for path in sorted(self.path.glob(f"cells/*-{key}.json")):
            cell = _json(path)
            if isinstance(cell, dict) and cell.get("version") == VERSION and cell.get("key") == key:
                return cell
        return None

    def write(self, label: str, cell: Mapping[str, Any]) -> None:
        """`cell` has a "key". A file that it has under another label is replaced."""
        path = self.folder("cells") / f"{slug(label)}-{cell['key']}.json"
        _write(path, {"version": VERSION, **cell})
        for other in self.path.glob(f"cells/*-{cell['key']}.json"):
            if other != path:
                other.unlink()

    def write_spec(self, name: str, content: Mapping[str, Any]) -> None:
        _write(self.folder("specs") / f"{slug(name)}.json", content)

    def specs(self) -> dict[str, dict[str, Any]]:
        """By name. Raises RwkvQuantError for a damaged one, and where none was run."""
        found = {}
        for path in sorted(self.path.glob("specs/*.json")):
            content = _json(path)
            if not isinstance(content, dict) or not isinstance(content.get("rows"), list):
                raise RwkvQuantError(f"{path} is damaged; run the specification again: finished cells are kept")
            found[path.stem] = content
        if not found:
            raise RwkvQuantError(f"no specification was run in {self.path}; `rwkvquant lab run SPEC.yaml --work-dir {self.path}` does so")
        return found


def key_of(question: Mapping[str, Any]) -> str:
    """16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()[:16]


def slug(name: str) -> str:
    """A name as a part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", name).strip("._")[:80] or "_"


def _write(path: Path, content: Mapping[str, Any]) -> None:
    replace_file(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode(), again="new")


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
