"""Documents name files that exist, in lines of a length that fits, without words that readers stumble over."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("docs", "src", "demo", "tests")
DOCUMENTS = sorted(ROOT.glob("*.md")) + [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.md"))]
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in DOCUMENTS)
LINE_LENGTH = 140
# Each has a plainer word: after (of time and order), again, who, and so on. Readers have English as their second language.
UNUSUAL = [
    "behind",
    "anew",
    "afresh",
    "whoever",
    "seldom",
    "nought",
    "till",
    "mind",
    "minds",
    "mend",
    "mends",
    "mended",
    "learnt",
    "nobody",
]
UNUSUAL += ["of its own accord", "vouch for", "vouches for", "to the letter", "told so", "of a day"]
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


def anchors(text: str) -> set[str]:
    """The names of a document's sections, as links write them: "## int8 activations" is #int8-activations."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def missing_sections(text: str, document: Path) -> list[str]:
    """Links to sections, `file.md#section` or `#section`, that are not there. Links to the web are not looked at."""
    links = [link for link in re.findall(r"\]\(([^)\s]*)#([\w-]+)\)", text) if "://" not in link[0]]
    return [f"{name}#{part}" for name, part in links if part not in anchors((document.parent / name if name else document).read_text())]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_sections_that_documents_link_to_exist(document: Path) -> None:
    assert missing_sections(document.read_text(), document) == []


def test_the_check_of_sections_can_fail() -> None:
    assert missing_sections("[a](docs/format.md#no-such-part) [b](#licence)", ROOT / "README.md") == ["docs/format.md#no-such-part"]
    assert anchors("# What it is\n## `load` and Model.slots\n```\n# not this\n```\n") == {"what-it-is", "load-and-modelslots"}


def test_the_check_can_fail() -> None:
    assert missing_files("see [that](docs/nowhere.md) and `kernels/gone.py`", ROOT) == ["docs/nowhere.md", "kernels/gone.py"]


def prose(text: str) -> list[tuple[int, str]]:
    """Numbered lines outside code blocks and tables: a table row and a formula may be as long as they must."""
    lines, fenced = [], False
    for number, line in enumerate(text.splitlines(), 1):
        fence = line.startswith("```")
        fenced = fenced != fence
        if not (fence or fenced or line.startswith(("| ", "|-", "    ", "$$"))):
            lines.append((number, line))
    return lines


def long_lines(text: str) -> list[int]:
    return [number for number, line in prose(text) if len(line) > LINE_LENGTH]


def unusual_words(text: str) -> list[str]:
    """The unusual words of a document, those in tables too, without code blocks, `code` and links' targets."""
    lines = [line for line in text.splitlines() if not line.startswith("    ")]
    flat = " ".join(re.sub(r"`[^`]*`|\]\([^)]*\)", "", re.sub(r"```.*?```", "", "\n".join(lines), flags=re.DOTALL)).split())
    return re.findall(rf"\b(?:{'|'.join(UNUSUAL)})\b", flat, flags=re.IGNORECASE)


@pytest.mark.parametrize("name", PAGES)
def test_lines_of_documents_fit(name: str) -> None:
    assert long_lines((ROOT / name).read_text()) == []


@pytest.mark.parametrize("name", PAGES)
def test_documents_use_usual_words(name: str) -> None:
    assert unusual_words((ROOT / name).read_text()) == []


def test_the_checks_of_lines_and_words_can_fail() -> None:
    assert long_lines("short\n\n" + "long " * 29 + "\n\n    " + "code " * 40 + "\n| " + "cell " * 40) == [3]
    assert unusual_words("Behind it, whoever\nstarts anew.\n\n    behind\n\n`behind` [it](behind.md)\n```\nbehind\n```\n") == [
        "Behind",
        "whoever",
        "anew",
    ]
    assert unusual_words("It goes of its own\naccord.") == ["of its own accord"]


def test_the_tree_of_files_is_the_tree() -> None:
    """Every line of the file tree begins with a path that exists."""
    tree = (ROOT / "docs/architecture.md").read_text().split("## The tree")[1].split("```")[1]
    paths = [line.split()[0] for line in tree.strip().splitlines()]
    assert len(paths) > 10
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_no_large_file_but_the_models() -> None:
    """Every commit keeps its files for ever."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    large = [name for name in listed if name and (ROOT / name).exists() and (ROOT / name).stat().st_size > 4_000_000]
    assert [name for name in large if Path(name).suffix not in (".pth", ".safetensors")] == []


def test_no_file_holds_a_conflict_of_git() -> None:
    conflicts = subprocess.run(
        ["git", "-C", ROOT, "grep", "-lE", r"^(<{7} |>{7} |={7}$)", "--", "."], capture_output=True, text=True, check=False
    )
    assert conflicts.returncode == 1, f"conflicts are left in {conflicts.stdout or conflicts.stderr}"
