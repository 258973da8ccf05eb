"""Quantise a checkpoint: the whole story on one page.

A recipe says what runs. Pass 1, if the recipe has one, tries every candidate on full-precision inputs, and every matrix gets its setting
(pass_1.py). plan.py makes the plan for every tensor. Pass 2 goes block by block, in three steps. It runs the calibration through
the block with the original weights, on inputs that the quantised blocks before it produced (blocks.py). It quantises the tensors of
the block with the statistics of this run (tensors.py; an executor gets the matrices). It runs the rows through the quantised block, for
the next one.

The weights of one block and the activations of one batch are in memory. The hidden states are in the work directory, the finished
tensors in the writer's spool. resume.py wraps pass 2, so that a job that was killed can continue.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from rwkvquant.architectures import Role
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.codecs import ALIGNMENT
from rwkvquant.config import QuantizeRequest
from rwkvquant.errors import ConfigError
from rwkvquant.formats.container import check_output, open_packed
from rwkvquant.kernels.tiles import padded
from rwkvquant.models import CheckpointSource
from rwkvquant.pipeline import record
from rwkvquant.pipeline.blocks import calibration_run
from rwkvquant.pipeline.executor import HERE, Executor
from rwkvquant.pipeline.fingerprint import of_pass_2
from rwkvquant.pipeline.folding import fold_rotations
from rwkvquant.pipeline.forward import settled
from rwkvquant.pipeline.guides import guides_for
from rwkvquant.pipeline.materials import materials_for
from rwkvquant.pipeline.pass_1 import choose
from rwkvquant.pipeline.plan import make_plan, planned_ledger
from rwkvquant.pipeline.products import fast_products
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.resume import resumable
from rwkvquant.pipeline.tensors import TensorWriter
from rwkvquant.pipeline.transforms import transforms_of
from rwkvquant.pipeline.work_dir import WorkDirectory, work_directory
from rwkvquant.recipes import Recipe, recipe_for
from rwkvquant.results import QuantizeResult

HEAD = {Role.HEAD}  # quantised last, with the statistics of what the quantised blocks give it
ALL = set(Role) - {Role.CARRIED}
BEFORE_HEAD = ALL - HEAD

Asked = QuantizeRequest | Recipe | None


def quantize(
    source: str | Path,
    output: str | Path,
    request: Asked = None,
    *,
    progress: Progress | None = None,
    work_dir: str | Path | None = None,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    executor: Executor = HERE,
) -> QuantizeResult:
    """Write `output`, and say what is in it. Raises children of RwkvQuantError; then there is no file named `output`.

    A Recipe in place of a request runs as it is. `resume` "auto", "required" or "never" says what to do with what an earlier run left in
    `work_dir` (work_dir.py). `stop` is called after each block. If it returns True and there is a `work_dir`, StoppedError is raised.
    """
    recipe, progress = _recipe(request), progress or Progress()
    check_output(output, source, *filter(None, (recipe.calibration.path, recipe.tokenizer)))
    asked = request if isinstance(request, QuantizeRequest) else QuantizeRequest(method=recipe.method)
    try:
        with fast_products(_device(recipe)), work_directory(work_dir, output, resume, stop, progress) as work:
            return _quantize(Path(source), Path(output), asked, recipe, progress, work, executor)
    finally:
        progress.end()


def _quantize(
    source: Path, output: Path, asked: QuantizeRequest, recipe: Recipe, progress: Progress, work: WorkDirectory, executor: Executor
) -> QuantizeResult:
    checkpoint, device = open_checkpoint(source, recipe.adapter), _device(recipe)
    check_output(output, *checkpoint.inputs(), *(checkpoint.adapter.files if checkpoint.adapter else ()))
    recipe = settled(recipe, checkpoint, device, progress)
    fold_rotations(checkpoint, recipe)
    materials = materials_for(checkpoint, recipe, progress)
    calibrated, kept = materials.calibration, materials.tokenizer_data or materials.image
    transforms = transforms_of(checkpoint, recipe)
    chosen = choose(checkpoint, recipe, calibrated, transforms, work, device, progress, executor)
    plan = make_plan(checkpoint, recipe, chosen, transforms)

    assert kept is not None
    made_from = of_pass_2(checkpoint.made_from(), calibrated.sha256 if calibrated else None, kept, chosen, recipe)
    with resumable(work, output, made_from, checkpoint.dims.layers, recipe.measured) as job:
        run = calibration_run(checkpoint, recipe, calibrated, job.scratch, device, progress)
        guides = guides_for(checkpoint, recipe, calibrated, job.scratch, device, progress)
        tensors = TensorWriter(checkpoint, plan, recipe, job.writer, progress, executor, guides)
        job.restore(tensors, run, progress)
        progress.begin(len(plan) - len(job.writer))

        weights = CheckpointSource(checkpoint, device)
        original = weights.globals()
        progress.phase("embedding")
        outer = tensors.write(original, None, BEFORE_HEAD)
        tensors.carry()
        if job.begins:
            run.embed(outer, original)
            job.embedded()
        del original, outer  # what the head needs is read again when its turn comes

        for layer in job.blocks():
            block = weights.block(layer)
            quantised = tensors.write(block, layer, ALL - {Role.NORM} if run.fits_norms else ALL, run.collect(block, layer))
            if run.fits_norms:
                quantised = tensors.write(quantised | run.fitted_norms(quantised, block, layer), layer, {Role.NORM})
            run.advance(quantised, block, layer)
            del block, quantised  # before the next block is read

        if job.head_is_left:
            progress.phase("head")
            final = weights.globals()
            tensors.write(final, None, HEAD, run.collect_head(final))
            job.head_done()
        progress.phase("writing")
        if tensors.fallen_back:
            progress.note(f"rounded without error feedback, which has less error on what was kept out: {', '.join(tensors.fallen_back)}")
        job.writer.finish(
            model={"arch": checkpoint.arch, "dims": checkpoint.dims},
            quantization_config=record.quantization_config(asked, recipe, plan),
            tokenizer=materials.tokenizer_data,
            image=materials.image,
            provenance=record.provenance(checkpoint, calibrated),
        )
    return record.result(checkpoint, open_packed(output).ledger(), materials, str(output), tensors.fallen_back)


def plan_only(
    source: str | Path,
    request: Asked = None,
    progress: Progress | None = None,
    work_dir: str | Path | None = None,
    resume: str = "auto",
    stop: Callable[[], bool] = lambda: False,
    executor: Executor = HERE,
) -> QuantizeResult:
    """What `quantize` would write: without pass 2, and with pass 1 only where the recipe has one. Its `output` is None.

    The header of the file, a few kilobytes, is not counted.
    """
    recipe, progress = _recipe(request), progress or Progress()
    try:
        with fast_products(_device(recipe)), work_directory(work_dir, None, resume, stop, progress) as work:
            checkpoint, device = open_checkpoint(source, recipe.adapter), _device(recipe)
            recipe = settled(recipe, checkpoint, device, progress)
            fold_rotations(checkpoint, recipe)
            materials = materials_for(checkpoint, recipe, progress)  # a file that is not text is refused now, not only by the real run
            transforms = transforms_of(checkpoint, recipe)
            chosen = choose(checkpoint, recipe, materials.calibration, transforms, work, device, progress, executor)
            plan = make_plan(checkpoint, recipe, chosen, transforms)
    finally:
        progress.end()
    arrays = materials.tokenizer_data.arrays.values() if materials.tokenizer_data else ()
    ledger = planned_ledger(plan, sum(padded(array.size, ALIGNMENT) for array in arrays))
    return record.result(checkpoint, ledger, materials)


def _recipe(request: Asked) -> Recipe:
    return request if isinstance(request, Recipe) else recipe_for(request or QuantizeRequest())


def _device(recipe: Recipe) -> torch.device:
    if recipe.device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError("device cuda needs a GPU and a CUDA build of torch; this machine has none. Try --device cpu")
    try:
        return torch.device(recipe.device)
    except RuntimeError:
        raise ConfigError(f"device must be cpu, cuda or cuda:N; got {recipe.device}") from None
