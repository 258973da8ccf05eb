"""What a report is made from: a packed file, and the JSON that other commands printed about it (kinds.py)."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.formats.disk import why_no_file
from rwkvquant.lab.rows import TableRow, table_rows
from rwkvquant.lab.store import Store
from rwkvquant.report.kinds import Json, is_valid, kind_of
from rwkvquant.runtime.session import is_packed

LARGEST = 64 << 20  # bytes of a JSON that is read; a plan of a model of 14 billion weights has 10 MB
MOST_FILES = 500  # of a folder
PICTURES, PICTURE_BYTES = 8, 1 << 20


@dataclass(frozen=True)
class Picture:
    """An image of the folder, as a data: address."""

    name: str
    address: str


@dataclass(frozen=True)
class Sources:
    """`packed` is None for a folder of the laboratory alone.

    `found`: kind -> what that command printed; activations are under "activations TENSOR".
    `lab`: title and rows of each specification. `notes`: sentences about files that were left out.
    """

    packed: PackedFile | None
    found: Mapping[str, Json] = field(default_factory=dict)
    original: Checkpoint | None = None
    lab: tuple[tuple[str, tuple[TableRow, ...]], ...] = ()
    pictures: tuple[Picture, ...] = ()
    notes: tuple[str, ...] = ()

    def get(self, kind: str) -> Json:
        """{} if there is none."""
        return self.found.get(kind, {})


def gather(place: str | Path, given: Sequence[str] = (), original: str | None = None) -> Sources:
    """A packed file with the JSON next to it, or a folder. `given`: more JSON files, which must be ones that this knows.

    Raises ConfigError for a folder without a packed file or cells, or with several packed files, and for a file that is of no use here;
    FormatError and CheckpointError for damaged files.
    """
    path = Path(place)
    lab: tuple[tuple[str, tuple[TableRow, ...]], ...] = ()
    if path.is_dir():
        lab = _lab(path)
        files = _files(path)
        packed_files = [each for each in files if each.suffix == ".safetensors" and is_packed(each)]
        if len(packed_files) > 1:
            raise ConfigError(f"{path} has {len(packed_files)} packed files; give one of them, such as {packed_files[0]}")
        if not packed_files and not lab:
            raise ConfigError(f"{path} has neither a packed file nor cells of `rwkvquant lab run`; give a packed file or such a folder")
        packed = open_packed(packed_files[0]) if packed_files else None
    elif path.exists() and not is_packed(path):
        raise ConfigError(
            f"a report needs a packed file or a folder; {path} is neither. Try: rwkvquant quantize {path} -o model.safetensors"
        )
    else:
        packed = open_packed(path)
        files = _files(path.parent)
    sources = Sources(packed, lab=lab, original=_original(original, packed))
    if packed is not None:
        sources = _with_json(sources, files)
        sources = replace(sources, pictures=_pictures(files) if path.is_dir() else ())
    for name in given:
        sources = _with_given(sources, Path(name))
    return sources


def of_job(output: str, found: Mapping[str, Json], original: str | None, work_dir: str | None = None) -> Sources:
    """Of a job that has just ended: its results by kind, the original, and plan.json of the work directory if there is one."""
    packed = open_packed(output)
    sources = Sources(packed, found, _original(original, packed))
    return _with_json(sources, [Path(work_dir) / "plan.json"] if work_dir and (Path(work_dir) / "plan.json").is_file() else [])


def _original(name: str | None, packed: PackedFile | None) -> Checkpoint | None:
    if name is None:
        return None
    if packed is None:
        raise ConfigError("--original belongs to a packed file; the folder has none")
    if is_packed(name):
        raise ConfigError(f"--original is the checkpoint before it was quantised; {name} is a packed file")
    checkpoint = open_checkpoint(name)
    if (checkpoint.architecture.name, checkpoint.dims) != (packed.arch, packed.dims):
        raise ConfigError(f"--original {name} has other sizes than {packed.path}; give the checkpoint that it was made from")
    return checkpoint


def _files(folder: Path) -> list[Path]:
    """The files of a folder, and plan.json of a work directory in it, by name."""
    found = sorted(each for each in folder.iterdir() if each.is_file())[:MOST_FILES]
    return found + sorted(folder.glob("*/plan.json"))[:MOST_FILES]


def _with_json(sources: Sources, files: Sequence[Path]) -> Sources:
    found, notes = dict(sources.found), list(sources.notes)
    for file in files:
        if file.suffix != ".json":
            continue
        content = _read(file)
        kind = kind_of(content)
        if kind is None:
            continue
        if not is_valid(kind, content):
            notes.append(f"{file.name} looks like the JSON of {kind}, but its fields are of other types. It is left out.")
        elif not _is_of(sources, kind, content):
            notes.append(f"{file.name} is about another file, or about an earlier version of this one. It is left out.")
        elif _key(kind, content) in found:
            notes.append(f"{file.name} is left out: another {kind} was found before it.")
        else:
            found[_key(kind, content)] = content
    return replace(sources, found=found, notes=tuple(notes))


def _with_given(sources: Sources, file: Path) -> Sources:
    """With a file that the user named: it wins over one that was found."""
    content = _read(file)
    kind = kind_of(content)
    if kind is None:
        raise ConfigError(f"{file} is not the JSON of quantize, compare, eval, bench, activations or demo; make it with --json")
    if not is_valid(kind, content):
        raise ConfigError(f"{file} looks like the JSON of {kind}, but its fields are of other types; make it again with --json")
    if not _is_of(sources, kind, content):
        raise ConfigError(f"{file} is not about {sources.packed.path if sources.packed else 'a packed file'}; make it again from this file")
    return replace(sources, found={**sources.found, _key(kind, content): content})


def _key(kind: str, content: Json) -> str:
    """Under which a JSON is found."""
    return f"activations {content['tensor']}" if kind == "activations" else kind


def _is_of(sources: Sources, kind: str, content: Json) -> bool:
    """Whether a JSON is about this packed file: by its name, and by its size where the JSON has one."""
    packed = sources.packed
    if packed is None:
        return False
    if kind == "plan":
        return bool(content["made_from"].get("checkpoint") == packed.provenance.get("source_sha256"))
    if kind == "demo":
        return any(each["file_bytes"] == packed.file_bytes for each in content["quantize"].values())
    if kind == "activations":  # of the original: it names no packed file
        return Path(content["file"]).name == packed.provenance.get("source") and content["tensor"] in packed.tensors
    named = content.get({"compare": "quantised", "quantize": "output"}.get(kind, "file"))
    same_size = kind not in ("quantize", "bench") or content["file_bytes"] == packed.file_bytes
    return same_size and isinstance(named, str) and Path(named).name == packed.path.name


def _read(file: Path) -> Any:
    """Its JSON; None where it has none. Raises ConfigError if the file cannot be read."""
    try:
        if file.stat().st_size > LARGEST:
            return None
        return json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror or error}") from None


def _lab(folder: Path) -> tuple[tuple[str, tuple[TableRow, ...]], ...]:
    if not (folder / "specs").is_dir():
        return ()
    store = Store(folder)
    of_files = {name: spec for name, spec in store.specs().items() if not spec.get("study")}  # a study has no files and no KL
    return tuple((str(spec.get("title") or name), tuple(table_rows(store, spec))) for name, spec in of_files.items())


def _pictures(files: Sequence[Path]) -> tuple[Picture, ...]:
    """The first pictures of a folder that are PNG and not large."""
    named = [file for file in files if file.suffix == ".png" and file.stat().st_size <= PICTURE_BYTES][:PICTURES]
    data = {file.name: file.read_bytes() for file in named}
    return tuple(
        Picture(name, "data:image/png;base64," + base64.b64encode(content).decode())
        for name, content in data.items()
        if content.startswith(b"\x89PNG\r\n\x1a\n")
    )


def require_output(output: str | Path, *inputs: str | Path) -> None:
    """Raises ConfigError for a name under which no page can be written, or which is that of an input."""
    path = Path(output)
    if why := why_no_file(path):
        raise ConfigError(f"the report {path} could not be written: {why}")
    if not path.parent.is_dir():
        raise ConfigError(f"the report {path} could not be written: there is no folder {path.parent}")
    if any(path.resolve() == Path(each).resolve() for each in inputs):
        raise ConfigError(f"the report would replace {path}, which it is about or made from; give another name")
