"""The engine must start without torch and without the packages of extras; and this check can fail."""

from __future__ import annotations

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

import rwkvquant
from rwkvquant.cli.main import COMMANDS

ENGINE = [
    "rwkvquant",
    "rwkvquant.checkpoints",
    "rwkvquant.cli.main",
    "rwkvquant.codecs.native",
    "rwkvquant.exporting.card",
    "rwkvquant.exporting.layouts",
    "rwkvquant.formats.container",
    "rwkvquant.images",
    "rwkvquant.kernels.dispatch",
    "rwkvquant.kernels.rwkv6",
    "rwkvquant.kernels.rwkv7",
    "rwkvquant.report.page",
    "rwkvquant.report.sources",
    "rwkvquant.results",
    "rwkvquant.runtime.inspection",
    "rwkvquant.runtime.session",
    "rwkvquant.serve.scheduler",
    "rwkvquant.transforms",
    *(f"rwkvquant.cli.{file}" for file in COMMANDS.values()),
]


ONE_FILE: dict[str, str | set[str]] = {  # the packages of extras; jinja2 writes prompts, and pages of reports
    "PIL": "images/pillow.py",
    "distributed": "pipeline/workers.py",
    "gguf": "checkpoints/gguf_blocks.py",
    "lm_eval": "evaluation/lm_eval.py",
    "jinja2": {"runtime/templates/jinja.py", "report/page.py"},
    "pycocotools": "evaluation/images/coco.py",
    "llguidance": "serve/grammar.py",
    "starlette": {"serve/app.py", "serve/guard.py", "serve/sending.py"},
    "tokenizers": "runtime/tokenizer_package.py",
    "uvicorn": "serve/server.py",
    "yaml": "lab/yaml_file.py",
}


# A process that has read what every module needs (NumPy and the package itself) imports each in a copy of itself: a new Python for
# each would spend most of its time on that. A line of its output has a module and the packages that it loaded.
IMPORT_EACH = """
import os, sys
import numpy, rwkvquant

for modules in sys.argv[2:]:
    child = os.fork()
    if not child:
        sys.modules.update(dict.fromkeys(filter(None, sys.argv[1].split()), None))
        for module in modules.split():
            __import__(module)
        sys.stdout.write(" ".join([modules.split()[-1], *{name.partition(".")[0] for name in sys.modules}]) + "\\n")
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"importing {modules} failed")
"""


def loaded_by(*modules: str, without: str = "") -> dict[str, set[str]]:
    """{module: the packages that are loaded after it alone was imported}. `without` packages: importing these fails."""
    done = subprocess.run([sys.executable, "-c", IMPORT_EACH, without, *modules], stdout=subprocess.PIPE, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    return {module: set(packages) for module, *packages in lines}


@functools.cache
def loaded_by_engine() -> dict[str, set[str]]:
    return loaded_by(*ENGINE)


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_never_imports_torch(module: str) -> None:
    assert "numpy" in loaded_by_engine()[module]
    assert "torch" not in loaded_by_engine()[module]


def test_a_command_imports_no_other_command() -> None:
    """What quantising has to say in its help took a fifth of the time until the engine's first token."""
    script = "import sys; from rwkvquant.cli.main import command_line; command_line(['generate']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "rwkvquant.cli.generate" in loaded
    assert not {"rwkvquant.cli.quantize", "rwkvquant.cli.bench", "rwkvquant.recipes"} & set(loaded)


def test_the_check_can_fail() -> None:
    assert "torch" in loaded_by("rwkvquant.pipeline.quantize")["rwkvquant.pipeline.quantize"]
    with pytest.raises(subprocess.CalledProcessError):
        loaded_by("rwkvquant.report.page", without="json")


def test_the_engine_starts_without_the_packages_of_extras() -> None:
    assert loaded_by(" ".join(ENGINE), without=" ".join(ONE_FILE)).keys() == {ENGINE[-1]}


@pytest.mark.parametrize("package", ONE_FILE)
def test_the_engine_imports_no_package_of_an_extra_that_is_there(package: str) -> None:
    """So it starts without any one of them, too."""
    assert [module for module, packages in loaded_by_engine().items() if package in packages] == []


@pytest.mark.parametrize("package", ONE_FILE)
def test_one_file_imports_the_package_of_an_extra(package: str) -> None:
    root = Path(rwkvquant.__file__).parent
    assert {path.relative_to(root).as_posix() for path in root.rglob("*.py") if package in imported(path)} == files_of(package)


def files_of(package: str) -> set[str]:
    files = ONE_FILE[package]
    return files if isinstance(files, set) else {files}


@functools.cache
def imported(path: Path) -> set[str]:
    """The packages that a file imports, wherever in the file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.split(".")[0])
    return names
