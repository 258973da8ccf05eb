"""Code that needs to know something about an architecture asks its object. Only a few files spell names of tensors or architectures."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import rwkvquant

SOURCE = Path(rwkvquant.__file__).parent
SPELLED = re.compile(r"^rwkv[67]$|\bblocks\.|\b(?:att|ffn|ln_out|ln0)\.|\b(?:emb|head)\.(?:weight|x)$|\btime_state\b")
ALLOWED = {
    "architectures/": "the objects themselves",
    "models/": "the forward of one architecture, by its own names",
    "kernels/": "the step of one architecture, by its own names",
    "checkpoints/names.py": "the name tables of other layouts",
    "checkpoints/translate.py": "how layouts are recognised",
    "checkpoints/gguf_table.py": "the metadata of llama.cpp's files",
    "exporting/hf_config.py": "the config.json of other tools' classes",
    "checkpoints/summary.py": "a key of what `inspect` prints",
    "cli/quantize.py": "an example in the help of an option",
    "selection/policy.py": "an example in a message",
}


def spellings(source: str) -> Iterator[tuple[int, str]]:
    """(line, string) of every string constant that names a tensor or an architecture; docstrings do not count."""
    tree = ast.parse(source)
    bodies = (node.body for node in ast.walk(tree) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef))
    documented = {id(body[0].value) for body in bodies if body and isinstance(body[0], ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented and SPELLED.search(node.value):
            yield node.lineno, node.value


def spelled_in(folder: Path) -> dict[str, list[str]]:
    """{file: what it spells}, only for files that spell something."""
    every = {str(path.relative_to(folder)): list(spellings(path.read_text())) for path in sorted(folder.rglob("*.py"))}
    return {file: [f"line {line}: {text[:60]}" for line, text in strings] for file, strings in every.items() if strings}


def test_no_other_file_spells_a_tensor_or_an_architecture() -> None:
    assert {file: lines for file, lines in spelled_in(SOURCE).items() if not file.startswith(tuple(ALLOWED))} == {}


def test_every_exception_is_still_needed() -> None:
    spelling = spelled_in(SOURCE)
    assert [place for place in ALLOWED if not any(file.startswith(place) for file in spelling)] == []


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(
        '"""blocks.0.att.key.weight may be in a docstring."""\n'
        'if arch == "rwkv7":\n    x = weights["emb.weight"]\n'
        'y = f"blocks.{layer}.x"\nz = name.endswith("att.r_k")\n'
    )
    (tmp_path / "good.py").write_text('def f():\n    "head.weight is named here"\n    return architecture.heads, "head", "pth"\n')
    assert sorted(line.split(":")[0] for line in spelled_in(tmp_path)["bad.py"]) == ["line 2", "line 3", "line 4", "line 5"]
    assert list(spelled_in(tmp_path)) == ["bad.py"]
