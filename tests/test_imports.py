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


def imports_torch(module: str) -> bool:
    return imports("torch", module)


def imports(package: str, module: str) -> bool:
    script = f"import sys, {module}; sys.exit(17 if '{package}' in sys.modules else 0)"
    code = subprocess.run([sys.executable, "-c", script]).returncode
    assert code in (0, 17), f"importing {module} failed"
    return code == 17


@pytest.mark.parametrize("module", ENGINE)
def test_the_engine_never_imports_torch(module: str) -> None:
    assert not imports_torch(module)


def test_a_command_imports_no_other_command() -> None:
    """What quantising has to say in its help took a fifth of the time until the engine's first token."""
    script = "import sys; from rwkvquant.cli.main import command_line; command_line(['generate']); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "rwkvquant.cli.generate" in loaded
    assert not {"rwkvquant.cli.quantize", "rwkvquant.cli.bench", "rwkvquant.recipes"} & set(loaded)


def test_the_check_can_fail() -> None:
    assert imports_torch("rwkvquant.pipeline.quantize")


@pytest.mark.parametrize("package", ONE_FILE)
def test_the_engine_starts_without_the_packages_of_extras(package: str) -> None:
    modules = ", ".join(ENGINE)
    script = f"import sys; sys.modules[{package!r}] = None; import {modules}; print(len(rwkvquant.__all__))"
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0
    assert not any(imports(package, module) for module in ("rwkvquant.cli.main", "rwkvquant.runtime.session"))


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
