"""rwkvquant demo --images: quantise a small classifier of images, and show what changed."""

from __future__ import annotations

import tempfile
from typing import Any

from rwkvquant.cli.output import interval, stderr, stdout, table
from rwkvquant.cli.progress import Counter, quantize_progress
from rwkvquant.cli.quantize import show as show_quantized
from rwkvquant.errors import ConfigError

OURS, OTHERS = "rwkvquant", ("gptq", "rtn")  # at the same bits
SHOWN = 10  # images whose classes are printed one by one


def whole_job(checkpoint: str, images: str, calib: str, output: str | None, report: str | None = None) -> dict[str, Any]:
    """Quantise `checkpoint` with each method and compare with it on the set `images`. `calib`: the calibration images."""
    import numpy as np

    from rwkvquant import CalibrationConfig, QuantizeRequest, quantize
    from rwkvquant.evaluation.images import compare_many
    from rwkvquant.evaluation.images.load import load_image_model
    from rwkvquant.images import open_image_set, preprocessing_for

    base, chosen = load_image_model(checkpoint), open_image_set(images)
    if base.task != "classify":
        raise ConfigError(f"the demo shows classes; the head of {checkpoint} can {base.task or 'do nothing that this version knows'}")
    labels = chosen.classes_of(base.settings.classes, base.dims.classes)  # a wrong set is refused before the work, not after
    with tempfile.TemporaryDirectory() as scratch:
        files = {OURS: output or f"{scratch}/{OURS}.safetensors"} | {method: f"{scratch}/{method}.safetensors" for method in OTHERS}
        reports = {}
        for method, file in files.items():
            stderr.print(f"\nquantising with {method}", style="bold")
            request = QuantizeRequest(method=method, calibration=CalibrationConfig(path=calib))
            reports[method] = quantize(checkpoint, file, request, progress=quantize_progress()).to_json()
        models = {method: load_image_model(file) for method, file in files.items()}
        with Counter("comparing") as progress:
            compared = {m: each.result().to_json() for m, each in compare_many(base, models, chosen, progress=progress).items()}
        few = chosen.some(min(SHOWN, len(chosen)))
        fitted = preprocessing_for(base.settings, base.dims.patch, base.task).batch(few.read(index) for index in range(len(few)))
        predicted = {name: model.classify(fitted).double().softmax(1).numpy() for name, model in (("original", base), (OURS, models[OURS]))}
        true = None if labels is None else few.classes_of(base.settings.classes, base.dims.classes)
        rows = [
            {
                "image": few.names[index],
                "class": None if true is None else class_name(base, int(true[index])),
                **{
                    name: {"class": class_name(base, int(np.argmax(p[index]))), "probability": float(p[index].max())}
                    for name, p in predicted.items()
                },
            }
            for index in range(len(few))
        ]
        result = {"quantize": reports, "compare": compared, "images": rows}
        if report is not None:
            write_report(report, files[OURS], result, checkpoint)
    return result


def write_report(report: str, file: str, result: dict[str, Any], checkpoint: str) -> None:
    """While the packed file is there: without --output it is temporary."""
    from rwkvquant.report import page
    from rwkvquant.report.sources import of_job

    found = {"demo": result, "quantize": result["quantize"][OURS], "compare": result["compare"][OURS]}
    page.write_report(of_job(file, found, checkpoint), report)
    stderr.print(f"\nthe report is {report}")


def class_name(model: Any, index: int) -> str:
    names = model.settings.classes
    return str(names[index]) if names else str(index)


def show(result: dict[str, Any]) -> None:
    compared = result["compare"]
    stdout.print()
    show_quantized(result["quantize"][OURS])
    stdout.print()
    rows = [[each["image"], each["class"] or "", *(_said(each[name]) for name in ("original", OURS))] for each in result["images"]]
    stdout.print(table("some images, and the class that each model gives them", ["", "class", "original", OURS], rows))
    stdout.print()
    first = compared[OURS]
    rows = [["original", "16", _accuracy(first["score_base"]), "", ""]]
    for method, measured in compared.items():
        rows.append(
            [
                method,
                f"{result['quantize'][method]['bits_per_weight']:.3f}",
                _accuracy(measured["score_quantized"]),
                f"{measured['kl_mean']:.5f}{interval(measured['kl_ci95'], '.5f')}",
                f"{100 * measured['top1_agreement']:.1f} %",
            ]
        )
    title = f"against the original, {first['images']} images it was not calibrated on"
    stdout.print(table(title, ["", "bits/weight", "top-1", "KL, nats/image", "same class"], rows))


def _said(prediction: dict[str, Any]) -> str:
    return f"{prediction['class']} {100 * prediction['probability']:3.0f} %"


def _accuracy(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
