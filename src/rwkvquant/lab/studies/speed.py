"""Table 4 of RWKVQuant: how speed and the size of the file gain by quantising, and whether they gain more in a larger model.

The model of a request is a released shape with random weights (bench/random_model.py), packed by a preset and in 16 bits. Both files are
decoded in turns, token by token, so that a slow moment of the machine meets both; the speed-up is that within a round. Memory is that of
the file, which an engine holds once.

Speed belongs to a machine. The kind of CPU and the number of threads are part of the question, so another machine's cell is another one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkvquant.architectures import architecture
from rwkvquant.bench.layouts import PRESETS
from rwkvquant.bench.shapes import released
from rwkvquant.config import DEFAULT_BITS
from rwkvquant.errors import ConfigError, StoppedError
from rwkvquant.lab.rows import TableRow
from rwkvquant.lab.studies.study import Entry, Line, Study, Value, label_of, other_of
from rwkvquant.system import cpu_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rwkvquant.lab.kinds import Workplace
    from rwkvquant.lab.spec import LabModel

DENSE = "dense"  # the preset of 16 bits
TOKENS = 1024


@dataclass(frozen=True)
class Speed(Study):
    """`layouts` and `bits`: as in `bench --random`; `threads`: None for as many as the engine takes."""

    layouts: str = "default"
    bits: float = DEFAULT_BITS
    rounds: int = 9
    threads: int | None = None
    name = "speed"
    of_shapes = True
    about = (
        "Random weights of released shapes; medians of rounds, in which both files run in turn. Brackets of the speed-up: the least and "
        "the largest of a round. A token's bytes: what decoding it reads and writes. Read: its share of this machine's memory speed."
    )

    def __post_init__(self) -> None:
        if self.layouts not in PRESETS:
            raise ConfigError(f"layouts must be one of {', '.join(PRESETS)}; got {str(self.layouts)[:40]}")
        if isinstance(self.bits, bool) or not isinstance(self.bits, int | float) or not 0 < self.bits <= 16:
            raise ConfigError(f"bits must be above 0 and at most 16; got {str(self.bits)[:40]}")
        for name, value in (("rounds", self.rounds), ("threads", 1 if self.threads is None else self.threads)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number from 1 on; got {str(value)[:40]}")

    def question(self, model: LabModel) -> dict[str, Any]:
        from rwkvquant.runtime.threads import default_threads

        arch, _ = released(model.checkpoint)
        if architecture(arch).modality != "text":
            raise ConfigError(f"the study speed decodes tokens; {model.checkpoint} is a shape of a model for images")
        options = {"layouts": self.layouts, "bits": self.bits, "rounds": self.rounds, "threads": self.threads or default_threads()}
        return {"kind": self.name, "shape": model.checkpoint, **options, "cpu": cpu_name()}

    def results(self, model: LabModel, place: Workplace) -> dict[str, Any]:
        from rwkvquant.bench.random_model import write_random_model

        arch, dims = released(model.checkpoint)
        files = {name: place.output.with_name(f"{place.output.name}-{name}.safetensors") for name in dict.fromkeys((self.layouts, DENSE))}
        with ExitStack() as stack:
            for layouts, file in files.items():
                stack.callback(file.unlink, missing_ok=True)
                write_random_model(file, arch, dims, layouts=layouts, bits=self.bits)
            return self._measured(files, place)

    def _measured(self, files: dict[str, Path], place: Workplace) -> dict[str, Any]:
        from rwkvquant.bench.density import own_texts
        from rwkvquant.bench.measure import Decoder, bytes_per_token
        from rwkvquant.bench.roofline import Roofline
        from rwkvquant.formats.container import open_packed
        from rwkvquant.runtime.session import load

        models = {name: load(file, threads=self.threads, modality="text") for name, file in files.items()}
        decoders = {name: Decoder(model, np.resize(own_texts(model), TOKENS).tolist(), 1) for name, model in models.items()}
        speeds: dict[str, list[float]] = {name: [] for name in files}
        memory: list[float] = []
        with Roofline(models[DENSE].threads) as roofline:
            for index in range(self.rounds):
                if place.stop():
                    raise StoppedError(f"stopped before round {index + 1} of {self.rounds}; the same command measures this model again")
                memory.append(roofline.read())
                for name in list(files)[:: -1 if index % 2 else 1]:
                    speeds[name].append(decoders[name].tokens_per_second())
        packed = {name: open_packed(file) for name, file in files.items()}
        return {
            "threads": models[DENSE].threads,
            "backend": models[DENSE].backend,
            "pages": str(models[DENSE].held),
            "memory_bytes_s": memory,
            "files": {
                name: {
                    "decode_tok_s": speeds[name],
                    "bytes_per_token": bytes_per_token(file),
                    "file_bytes": file.file_bytes,
                    "bits_per_weight": file.ledger().bits_per_weight,
                }
                for name, file in packed.items()
            },
        }

    @staticmethod
    def lines(rows: Sequence[TableRow], reference: str | None) -> list[Line]:
        lines = []
        for row in rows:
            dense, own = _files(row)
            other = other_of(row, rows, reference)
            numbers: dict[str, Entry] = {
                "bits": own["bits_per_weight"],
                "tokens/s": median(own["decode_tok_s"]),
                "tokens/s, 16 bits": median(dense["decode_tok_s"]),
                "speed-up": speed_up(row),
                f"speed-up, over {reference}": _over(speed_up(row), speed_up(other)) if other else None,
                "bytes of a token": own["bytes_per_token"],
                "bytes of a token, 16 bits": dense["bytes_per_token"],
                "16 bits / ours": dense["bytes_per_token"] / own["bytes_per_token"],
                "read, %": 100 * median(_shares(row, own)),
                "read, 16 bits, %": 100 * median(_shares(row, dense)),
                "file, MB": own["file_bytes"] / 1e6,
                "file, 16 bits, MB": dense["file_bytes"] / 1e6,
                "file, 16 bits / ours": dense["file_bytes"] / own["file_bytes"],
                "threads": row.results["threads"],
            }
            lines.append(Line(label_of(row, rows), numbers))
        return lines

    @staticmethod
    def draw(rows: Sequence[TableRow], reference: str | None) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10.4, 4.4), layout="constrained")
        speed, gain = figure.subplots(1, 2)
        at, labels = np.arange(len(rows)), [label_of(row, rows) for row in rows]
        pairs = [_files(row) for row in rows]
        for side, (index, name) in zip((-0.2, 0.2), ((0, "16 bits"), (1, "quantised")), strict=True):
            speed.bar(at + side, [median(pair[index]["decode_tok_s"]) for pair in pairs], 0.4, label=name)
        speed.set_yscale("log")
        speed.set_ylabel("tokens a second")
        speed.legend(fontsize="small")
        gains = [speed_up(row) for row in rows]
        bounds = [value.interval or (value.value, value.value) for value in gains]
        apart = [[value.value - low for value, (low, _) in zip(gains, bounds, strict=True)]]
        apart += [[high - value.value for value, (_, high) in zip(gains, bounds, strict=True)]]
        gain.errorbar(at, [value.value for value in gains], apart, marker="o", capsize=3, label="speed-up")
        gain.plot(
            at, [dense["bytes_per_token"] / own["bytes_per_token"] for dense, own in pairs], marker="s", label="fewer bytes of a token"
        )
        gain.set_ylim(bottom=0)
        gain.set_ylabel("times")
        gain.legend(fontsize="small")
        for axes in (speed, gain):
            axes.set_xticks(at, labels)
            axes.grid(True, axis="y", alpha=0.25)
        return figure


def speed_up(row: TableRow) -> Value:
    """The median of the rounds, with the least and the largest."""
    dense, own = _files(row)
    ratios = [ours / theirs for ours, theirs in zip(own["decode_tok_s"], dense["decode_tok_s"], strict=True)]
    return Value(median(ratios), (min(ratios), max(ratios)) if len(ratios) > 1 else None)


def _over(value: Value, other: Value) -> Value:
    """Their quotient; its interval goes from the least to the largest quotient of a number of one and a number of the other."""
    (low, high), (least, most) = (each.interval or (each.value, each.value) for each in (value, other))
    return Value(value.value / other.value, (low / most, high / least))


def _files(row: TableRow) -> tuple[dict[str, Any], dict[str, Any]]:
    """(16 bits, quantised)"""
    files = row.results["files"]
    return files[DENSE], next((file for name, file in files.items() if name != DENSE), files[DENSE])


def _shares(row: TableRow, file: dict[str, Any]) -> list[float]:
    """Of each round: the bytes that were read a second, over what this machine's memory gives."""
    return [speed * file["bytes_per_token"] / most for speed, most in zip(file["decode_tok_s"], row.results["memory_bytes_s"], strict=True)]
