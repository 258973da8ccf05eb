"""How a cell's file is made. A kind is one frozen dataclass: what its result depends on, and a file in the end.

    {method: gptq, ...}    quantised by rwkvquant, a packed file
    {gguf: q4_K}           rounded onto llama.cpp's grids by rwkvquant (docs/methods/gguf.md)
    {file: a.gguf}         made by any other tool: whatever `compare` reads, of the same model
    {study: clusters}      no file: a study of the model itself, with results of its own (studies/)

A new kind is a class here, and its key in `kind_of`. A new study is a file in studies/.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from rwkvquant.checkpoints import open_text_checkpoint
from rwkvquant.config import GGUF_TYPES, CalibrationConfig, QuantizeRequest
from rwkvquant.errors import CheckpointError, ConfigError
from rwkvquant.lab.hashes import calibration_json, digest
from rwkvquant.lab.studies import Study, study_of
from rwkvquant.recipes import recipe_for

if TYPE_CHECKING:
    from rwkvquant.lab.spec import LabModel
    from rwkvquant.pipeline.progress import Progress


@dataclass(frozen=True)
class Workplace:
    """`output`: where to write, without a suffix; `folder`: the work directory of the quantiser; `stop`: as in pipeline.quantize."""

    output: Path
    folder: Path
    progress: Progress
    stop: Callable[[], bool]


class Kind(Protocol):
    def question(self) -> dict[str, Any]:
        """All that the result depends on besides model and text, without paths, as plain JSON."""
        ...

    def make(self, model: LabModel, place: Workplace) -> tuple[Path, dict[str, Any]]:
        """-> the file, and what is known of it: "bits_per_weight" of projections and LoRA factors, "file_bytes"."""
        ...

    @property
    def own_file(self) -> bool:
        """The laboratory made the file, so it may remove it."""
        ...

    @property
    def calibration(self) -> CalibrationConfig | None:
        """None where another tool has made the file."""
        ...


def kind_of(options: Mapping[str, Any]) -> Kind | Study:
    """Raises ConfigError for options that no kind or no method has."""
    if "study" in options:
        return study_of(options)
    for key, build in (("gguf", _blocks), ("file", _ready)):
        if key in options:
            extra = [name for name in options if name not in (key, "calibration")]
            if extra or (key == "file" and not isinstance(options[key], str)):
                raise ConfigError(f"{key} stands alone, with a string; got {', '.join([key, *extra])}")
            return build(options)
    request = QuantizeRequest.from_dict(options)
    recipe_for(request)
    return Quantized(request)


def _blocks(options: Mapping[str, Any]) -> Kind:
    return Blocks(options["gguf"], options["calibration"])


def _ready(options: Mapping[str, Any]) -> Kind:
    return ReadyFile(options["file"])


@dataclass(frozen=True)
class Quantized:
    request: QuantizeRequest
    own_file = True

    @property
    def calibration(self) -> CalibrationConfig:
        return self.request.calibration

    def question(self) -> dict[str, Any]:
        options = self.request.to_dict()
        del options["tokenizer"]  # by content, in the cell's question
        return {"kind": "quantize", "options": options | {"calibration": calibration_json(self.request.calibration)}}

    def make(self, model: LabModel, place: Workplace) -> tuple[Path, dict[str, Any]]:
        from rwkvquant.formats.container import open_packed
        from rwkvquant.pipeline.quantize import quantize

        file = place.output.with_name(place.output.name + ".safetensors")
        result = quantize(model.checkpoint, file, self.request, progress=place.progress, work_dir=place.folder, stop=place.stop)
        packed = open_packed(file)
        shape = packed.provenance.get("calibration_tokens")
        return file, {
            "bits_per_weight": result.bits_per_weight,
            "bits_per_weight_file": result.bits_per_weight_file,
            "file_bytes": result.file_bytes,
            "fallen_back": len(result.fallen_back),
            "layouts": layout_shares(packed),
            "calibration_rows": shape[0] if shape else None,
        }


@dataclass(frozen=True)
class Blocks:
    gguf: str
    calibration: CalibrationConfig
    own_file = True

    def __post_init__(self) -> None:
        if self.gguf not in GGUF_TYPES:
            near = difflib.get_close_matches(str(self.gguf)[:20], GGUF_TYPES, n=1)
            hint = f". Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"gguf must be one of {', '.join(GGUF_TYPES)}; got {str(self.gguf)[:40]}{hint}")

    def question(self) -> dict[str, Any]:
        return {"kind": "gguf", "gguf": self.gguf, "calibration": calibration_json(self.calibration)}

    def make(self, model: LabModel, place: Workplace) -> tuple[Path, dict[str, Any]]:
        from rwkvquant.exporting.gguf import check_tokenizer, export_blocks
        from rwkvquant.pipeline.gguf import gguf_matrices
        from rwkvquant.runtime.tokenizer import load_tokenizer

        file = place.output.with_name(place.output.name + ".gguf")
        checkpoint = open_text_checkpoint(model.checkpoint)
        tokenizer = load_tokenizer(model.tokenizer or checkpoint.tokenizer, checkpoint.dims.vocab)
        check_tokenizer(tokenizer.to_data())
        matrices = gguf_matrices(checkpoint, self.gguf, tokenizer, self.calibration, place.progress)
        export_blocks(checkpoint, str(file), tokenizer.to_data(), matrices, self.gguf)
        return file, sizes(file)


@dataclass(frozen=True)
class ReadyFile:
    file: str
    own_file = False
    calibration = None

    def question(self) -> dict[str, Any]:
        path = Path(self.file)
        return {"kind": "file", "file_sha256": digest(path) if path.is_file() else None}

    def make(self, model: LabModel, place: Workplace) -> tuple[Path, dict[str, Any]]:
        path = Path(self.file)
        if not path.exists():
            raise CheckpointError(f"{path}: there is no such file; another tool has to make it first")
        return path, sizes(path)


def sizes(file: Path) -> dict[str, Any]:
    """Of any file that `compare` reads."""
    from rwkvquant.runtime.inspection import inspect

    found = inspect(file)
    return {
        "bits_per_weight": found.bits_per_weight,
        "bits_per_weight_file": found.bits_per_weight_file,
        "file_bytes": found.file_bytes,
    }


def layout_shares(packed: Any) -> dict[str, float]:
    """The share of the weights of projections and LoRA factors that each layout has, 0 to 1, largest first."""
    from rwkvquant.architectures import QUANTIZED_ROLES

    weights: dict[str, int] = {}
    for entry in packed.tensors.values():
        if entry.role in [str(role) for role in QUANTIZED_ROLES]:
            weights[entry.layout] = weights.get(entry.layout, 0) + entry.shape[0] * entry.shape[1]
    total = sum(weights.values())
    return {name: count / total for name, count in sorted(weights.items(), key=lambda item: -item[1])}
