"""The result does not depend on who quantises, or when: the same bytes from this process, in another order, and from other processes."""

from __future__ import annotations

import gc
import multiprocessing
import operator
import random
import weakref
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from rwkvquant.calibration.statistics import InputStatistics
from rwkvquant.pipeline.executor import Executor, SerialExecutor, T, Work, arithmetic, set_arithmetic
from rwkvquant.pipeline.quantize import quantize
from rwkvquant.pipeline.tasks import Matrix, Task
from rwkvquant.recipes import Recipe, Setting
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file, fewest_of, recipe_of


class Shuffled:
    """All tasks at once, in any order."""

    def __init__(self) -> None:
        self.draw, self.tasks = random.Random(0), 0

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]:
        waiting = list(tasks)
        self.tasks += len(waiting)
        order = self.draw.sample(range(len(waiting)), len(waiting))
        done = {i: waiting[i].perform() for i in order}
        return iter([done[i] for i in range(len(waiting))])


class Others:
    """Other processes, which get every task as bytes."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self.pool = pool

    def run(self, tasks: Iterable[Work[T]]) -> Iterator[T]:
        yield from self.pool.map(operator.methodcaller("perform"), list(tasks))


def written_by(executor: Executor, source: Path, recipe: Recipe, folder: Path) -> bytes:
    output = folder / f"{type(executor).__name__}.safetensors"
    quantize(source, output, recipe, executor=executor)
    return output.read_bytes()


def test_the_order_of_tasks_changes_no_byte(tmp_path: Path) -> None:
    """With every kind of task: corrected products, text kept out, an embedding, a head, and products that share an input."""
    source = checkpoint_file(tmp_path, "rwkv6", **TINY)
    recipe = fewest_of(bits=4.0, calibration=calibration_text(tmp_path, rows=8, length=48))
    shuffled = Shuffled()
    assert written_by(SerialExecutor(), source, recipe, tmp_path) == written_by(shuffled, source, recipe, tmp_path)
    assert shuffled.tasks > 10


def test_other_processes_change_no_byte(tmp_path: Path) -> None:
    source = checkpoint_file(tmp_path, "rwkv7", **TINY)
    recipe = recipe_of(method="gptq", code_bits=3, correction=0.5, calibration=calibration_text(tmp_path, rows=8, length=48))
    expected = written_by(SerialExecutor(), source, recipe, tmp_path)
    ways = multiprocessing.get_context("spawn")
    # The job sets the precision of products when it begins, so a worker takes over what this process has then: see `fast_products`.
    with ProcessPoolExecutor(2, ways, initializer=set_arithmetic, initargs=in_a_job()) as pool:
        assert written_by(Others(pool), source, recipe, tmp_path) == expected


def in_a_job() -> tuple[int, str]:
    from rwkvquant.pipeline.products import fast_products

    with fast_products(torch.device("cpu")):
        return arithmetic()


def test_one_hessian_at_a_time() -> None:
    """The serial executor takes a task only after the one before it, and its Hessian, is freed."""
    alive: list[weakref.ref[torch.Tensor]] = []

    def tasks() -> Iterator[Task]:
        for _ in range(4):
            gc.collect()
            assert not any(ref() is not None for ref in alive)
            yield made()

    def made() -> Task:
        statistics = InputStatistics(32)
        statistics.add(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)))
        alive.append(weakref.ref(statistics.H))
        (setting,) = recipe_of(method="gptq", code_bits=3).candidates
        return Task((Matrix("a", torch.ones(16, 32), setting),), recipe_of(method="gptq").quantizer, H=statistics.H)

    assert len(list(SerialExecutor().run(tasks()))) == 4


def test_the_estimated_cost_of_a_task() -> None:
    """Each row against the Hessian four times, what else its weights take, and the factor; codebooks take longer than grids."""
    grid, codebook = (recipe_of(method=method, code_bits=3).candidates[0] for method in ("gptq", "gptvq"))
    options, H = recipe_of(method="gptq").quantizer, torch.eye(32, dtype=torch.float64)

    def cost(setting: Setting, rows: int, H: torch.Tensor | None) -> float:
        return Task((Matrix("a", torch.ones(rows, 32), setting), Matrix("b", torch.ones(8, 32), grid)), options, H=H).cost

    assert grid.work < codebook.work
    for setting in (grid, codebook):
        assert cost(setting, 16, None) == 16 * 32 * setting.work + 8 * 32 * grid.work
        assert cost(setting, 16, H) - cost(setting, 16, None) == 4 * (16 + 8) * 32**2 + 32**3
