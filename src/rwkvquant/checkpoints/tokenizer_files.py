"""The tokenizer files next to a checkpoint, by their names; runtime/tokenizer_beside.py opens them and chooses one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

NAMES = ("rwkv_vocab_v*.txt", "tokenizer.json", "*_tokenizer.json")  # World; Hugging Face; 20B_tokenizer.json of ChatRWKV


@dataclass(frozen=True)
class TokenizerFiles:
    """`paths`, at least one. `own`: the checkpoint is a directory, and they are in it. Next to a file they may be other models'."""

    paths: tuple[Path, ...]
    own: bool


def tokenizer_files(checkpoint: Path) -> TokenizerFiles | None:
    """Those in the directory of the checkpoint, in the order of NAMES, or None."""
    own = checkpoint.is_dir()
    folder = checkpoint if own else checkpoint.parent
    paths = dict.fromkeys(path for name in NAMES for path in sorted(folder.glob(name)) if path.is_file())
    return TokenizerFiles(tuple(paths), own) if paths else None
