"""An installed package brings its codecs and methods to the command line by an entry point; nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HELLO = """
from tests.extending import toy_codec, toy_recipe
toy_codec.add()
toy_recipe.add()
"""

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def installed(tmp_path: Path) -> Command:
    """A folder on Python's path with a module and the record that pip would leave of its package; it runs a command there."""

    def command(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "rwkvquant_toy.py").write_text(module)
        record = tmp_path / "rwkvquant_toy-1.0.dist-info"
        record.mkdir()
        (record / "METADATA").write_text("Metadata-Version: 2.1\nName: rwkvquant-toy\nVersion: 1.0\n")
        (record / "entry_points.txt").write_text("[rwkvquant.plugins]\ntoy = rwkvquant_toy\n")
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
        return subprocess.run([sys.executable, "-m", "rwkvquant", *arguments], env=environment, capture_output=True, text=True)

    return command


def test_the_command_line_lists_what_an_installed_package_has(installed: Command) -> None:
    ran = installed(HELLO, "quantize", "--help")
    told = " ".join(ran.stdout.replace("│", " ").split())
    assert ran.returncode == 0 and "toy: three values, or grids of 4 bits" in told


def test_a_broken_plugin_is_named_in_one_sentence(installed: Command) -> None:
    ran = installed("import nothing_that_exists\n", "inspect", "model.safetensors")
    assert ran.returncode == 2
    assert ran.stderr == (
        "rwkvquant: the plugin toy of the package rwkvquant-toy cannot be loaded (ModuleNotFoundError: No module named "
        "'nothing_that_exists'); update or remove that package\n"
    )


def test_a_plugin_that_wants_a_name_that_is_taken_is_refused(installed: Command) -> None:
    ran = installed(HELLO + "toy_recipe.add()\n", "verify", "model.safetensors")
    assert ran.returncode == 2 and "(ConfigError: there is a method toy already)" in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_python_and_the_version_import_no_plugin(installed: Command) -> None:
    assert installed("raise SystemError\n", "--version").returncode == 0
