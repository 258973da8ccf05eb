"""A document that names a file is wrong when the file has gone; this notices."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "src").rglob("*.md"))
ENDINGS = "py|cpp|h|md|toml|txt|json|pth|zlib"


def missing_files(text: str, folder: Path) -> list[str]:
    """Files that links and `code` name and that are neither beside the document, nor at the root, nor in the package."""
    links = re.findall(r"\]\(([^):#]+)\)", text)
    named = re.findall(rf"`([\w.-]+/[\w./-]+\.(?:{ENDINGS}))`", text)
    roots = (folder, ROOT, ROOT / "src/rwkvquant", ROOT / "docs")
    return [name for name in [*links, *named] if not any((root / name).exists() for root in roots)]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_documents_name_exist(document: Path) -> None:
    assert missing_files(document.read_text(), document.parent) == []


def test_the_check_can_fail() -> None:
    assert missing_files("see [that](docs/nowhere.md) and `kernels/gone.py`", ROOT) == ["docs/nowhere.md", "kernels/gone.py"]


def test_readme_tree_is_the_tree() -> None:
    """Every line of the README's file tree begins with a path that exists."""
    tree = (ROOT / "README.md").read_text().split("## The tree")[1].split("```")[1]
    paths = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_large_file_but_the_models() -> None:
    """Every commit keeps its files for ever."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    large = [name for name in listed if name and (ROOT / name).exists() and (ROOT / name).stat().st_size > 4_000_000]
    assert [name for name in large if Path(name).suffix not in (".pth", ".safetensors")] == []
