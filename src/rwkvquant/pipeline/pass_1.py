"""Pass 1, if the recipe has one, and the choice that follows. A work directory keeps the results of pass 1 for other budgets."""

from __future__ import annotations

import torch

from rwkvquant.checkpoints import Checkpoint
from rwkvquant.pipeline import fingerprint
from rwkvquant.pipeline.allocation import give_back
from rwkvquant.pipeline.calibrate import Calibration
from rwkvquant.pipeline.choose import choose_settings, require_reachable
from rwkvquant.pipeline.evidence import completed
from rwkvquant.pipeline.executor import HERE, Executor
from rwkvquant.pipeline.measure import measure
from rwkvquant.pipeline.plan_file import from_json, to_json
from rwkvquant.pipeline.progress import Progress
from rwkvquant.pipeline.settings import allowed_settings, quantized_shapes
from rwkvquant.pipeline.transforms import Transforms
from rwkvquant.pipeline.work_dir import WorkDirectory
from rwkvquant.recipes import Recipe, Setting


def choose(
    checkpoint: Checkpoint,
    recipe: Recipe,
    text: Calibration | None,
    transforms: Transforms,
    work: WorkDirectory,
    device: torch.device,
    progress: Progress,
    executor: Executor = HERE,
) -> dict[str, Setting]:
    """A setting for every projection and LoRA factor, by logical name."""
    if not recipe.measured:
        return choose_settings(checkpoint, recipe, None, transforms, progress)
    assert text is not None, "a recipe with a pass 1 reads text"
    require_reachable(checkpoint, recipe, transforms)
    settings = allowed_settings(recipe, list(quantized_shapes(checkpoint)), checkpoint.architecture, checkpoint.tensors)
    made_from = fingerprint.of_pass_1(checkpoint.made_from(), text.sha256, settings, transforms, recipe, text.kind)
    journal = work.journal("plan.json", made_from)
    measured = None
    if journal.state and journal.state.get("complete"):
        measured = from_json(journal.state.get("tensors"))
        if measured is None:
            journal.start_again("is damaged")
        else:
            progress.note(f"pass 1 skipped: its results are in {journal.path}")
    if measured is None:
        scratch = work.folder("pass1", keep=journal.state is not None)
        measured = measure(checkpoint, recipe, text, transforms, scratch, device, progress, journal, executor)
    known = completed(checkpoint, recipe, measured, text, device, progress)
    chosen = choose_settings(checkpoint, recipe, known, transforms, progress)
    if journal.state != (state := {"complete": True, "tensors": to_json(known, chosen)}):
        journal.note(state, "pass 1")
    work.clear("pass1")
    give_back()
    return chosen
