"""The arguments that benchmarks of whole models share, and the folder for what they make."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def parser_for(doc: str | None, max_tokens: int | None = None) -> argparse.ArgumentParser:
    """`doc`: the docstring of the script. `max_tokens`: the default for how much of the text is read; None is all of it."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--text", required=True)
    parser.add_argument("--calib-rows", type=int, default=64)
    parser.add_argument("--max-tokens", type=int, default=max_tokens)
    parser.add_argument("--work-dir", help="keep the quantised files here, and use those that are already here")
    parser.add_argument("--json", help="write rows and conditions here")
    parser.set_defaults(lambada=None)
    return parser


@contextmanager
def work_folder(args: argparse.Namespace) -> Iterator[Path]:
    """--work-dir, or a folder that is removed at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.work_dir or scratch)
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
