"""What the tests of the pipeline share: tiny checkpoints, a short text, a listener, and recipes with few candidates."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from rwkvquant import CalibrationConfig, QuantizeRequest
from rwkvquant.codecs import CodebookConfig, GridConfig, RowTablesConfig
from rwkvquant.formats.container import PackedFile, open_packed
from rwkvquant.pipeline.progress import Progress, TensorReport
from rwkvquant.recipes import Recipe, recipe_for
from tests.helpers import random_state_dict, write_pth

TEXT = "".join(f"{n} green bottles hanging on the wall, and {n * n} more in the cellar. " for n in range(200))
TINY = {"layers": 2, "width": 64, "hidden": 96, "vocab": 256, "ranks": dict.fromkeys(("Rw", "Ra", "Rv", "Rg", "Rm", "Rd"), 8)}


class Notes(Progress):
    """Keeps what the pipeline reports."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.reports: list[TensorReport] = []
        self.expected = 0
        self.blocks: list[tuple[int, int]] = []  # finished, of all
        self.promised: list[int] = []  # steps of each phase that announced them
        self.steps: list[int] = []  # and how many came

    def begin(self, tensors: int) -> None:
        self.expected = tensors

    def block(self, done: int, blocks: int) -> None:
        self.blocks.append((done, blocks))

    def phase(self, what: str, steps: int = 0) -> None:
        self.phases.append(what)
        if steps:
            self.promised.append(steps)
            self.steps.append(0)

    def step(self) -> None:
        self.steps[-1] += 1

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)

    def tensor(self, report: TensorReport) -> None:
        self.reports.append(report)


def checkpoint_file(tmp_path: Path, arch: str, **shape: object) -> Path:
    return write_pth(tmp_path / f"{arch}.pth", random_state_dict(arch, **shape))  # type: ignore[arg-type]


def first_blocks(source: Path, blocks: int, out: Path) -> Path:
    """The first blocks of a trained model, which still predict something."""
    weights = torch.load(source, weights_only=True)
    return write_pth(out, {name: W for name, W in weights.items() if not name.startswith("blocks.") or int(name.split(".")[1]) < blocks})


def calibration_text(tmp_path: Path, rows: int = 6, length: int = 96) -> CalibrationConfig:
    path = tmp_path / "calibration.txt"
    path.write_text(TEXT)
    return CalibrationConfig(path=str(path), rows=rows, length=length, batch=4)


def recipe_of(**options: Any) -> Recipe:
    return recipe_for(QuantizeRequest(**options))


def few(recipe: Recipe) -> Recipe:
    """Two codebooks, one group size and every second width of grids in place of all: the same job, but shorter."""
    codebooks = (CodebookConfig(2, 16), CodebookConfig(3, 4, 4))

    def kept(codec: Any) -> bool:
        return (
            codec in codebooks
            or isinstance(codec, RowTablesConfig)
            or (isinstance(codec, GridConfig) and codec.group_size == 64 and codec.bits % 2 == 0)
        )

    if len(recipe.candidates) <= 2:
        return recipe
    return replace(recipe, candidates=tuple(setting for setting in recipe.candidates if kept(setting.codec)))


def few_of(**options: Any) -> Recipe:
    return few(recipe_of(**options))


def fewest_of(**options: Any) -> Recipe:
    """Two grids and one codebook, where a test is not about candidates."""
    recipe = few_of(**options)
    kept = (GridConfig(2, 64), GridConfig(4, 64), CodebookConfig(2, 16))
    return replace(recipe, candidates=tuple(setting for setting in recipe.candidates if setting.codec in kept))


def projections(packed: PackedFile) -> dict[str, str]:
    """Name -> method of everything a budget is about."""
    return {name: str(entry.method) for name, entry in packed.tensors.items() if entry.role in ("projection", "lora")}


def opened(path: Path) -> PackedFile:
    packed = open_packed(path)
    packed.verify()
    return packed
