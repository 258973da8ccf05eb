"""What the public functions return, as frozen dataclasses. docs/python.md lists all fields.

`to_json` of each gives plain JSON: what the command of the same name prints with --json.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import Dims
from rwkvquant.architectures.image import ImageSettings
from rwkvquant.formats.ledger import LedgerItem, LedgerRow, item_json, row_json

Interval = tuple[float, float]


@dataclass(frozen=True)
class Result:
    def to_json(self) -> dict[str, Any]:
        """Tuples are lists there."""
        return {key: _listed(value) for key, value in dataclasses.asdict(self).items()}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class GenerateResult(Result):
    """`text` continues the prompt, without the stop string. `tokens` are all ids that were chosen, those of the stop string too.

    `finish_reason` is "stop" at token 0 or a stop string, and "length" at `max_tokens`. `logits_hash`: 16 hexadecimal digits of the last
    logits. `seed` repeats the result.
    """

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    logits_hash: str
    seed: int


@dataclass(frozen=True)
class ChatResult(Result):
    """One answer of a chat. `thinking` is what a reasoning model thought before it, else empty.

    `finish_reason` is "stop" at token 0 or a stop string, and "length" at `max_tokens`.
    """

    text: str
    thinking: str
    finish_reason: str


@dataclass(frozen=True)
class SourceSize:
    """A checkpoint before it is quantised. `bits_per_weight`: of projections and LoRA factors; `bits_per_weight_file`: of all weights."""

    file: str
    dtype: str
    file_bytes: int
    bits_per_weight: float
    bits_per_weight_file: float


@dataclass(frozen=True)
class QuantizeResult(Result):
    """The packed file, or the planned one, whose `output` is None. Bits per weight count scales, zeros, codebooks and padding.

    `ledger`: what every byte of the file is used for; rows that are not subtotals add up to `file_bytes`. `tensors`: one for each tensor.
    `fallen_back`: names of matrices that were rounded without error feedback, because that has less error on text kept out.
    `tokenizer`: its kind, as in docs/format.md, and where it was found; None for a model for images.
    """

    output: str | None
    source: SourceSize
    tokenizer: str | None
    tokenizer_source: str | None
    file_bytes: int
    bits_per_weight: float | None
    bits_per_weight_projections: float | None
    bits_per_weight_file: float | None
    ledger: tuple[LedgerRow, ...]
    tensors: tuple[LedgerItem, ...]
    fallen_back: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A plan has no "output" and no "fallen_back"."""
        plain = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}
        plain |= {"source": dataclasses.asdict(self.source)}
        plain |= {"ledger": [row_json(row) for row in self.ledger], "tensors": [item_json(item) for item in self.tensors]}
        plain |= {"fallen_back": list(self.fallen_back)}
        return {key: value for key, value in plain.items() if self.output is not None or key not in ("output", "fallen_back")}


@dataclass(frozen=True)
class PositionKL:
    """The mean KL, in nats per token, of the tokens at positions `first` to `last` of their windows; the first token has position 1.

    `kl_ci95`: its 95 % interval (low, high), None if a single window has such positions. `nll_base`: what the original loses there, in
    nats per token.
    """

    first: int
    last: int
    tokens: int
    kl_mean: float
    kl_ci95: Interval | None
    nll_base: float


@dataclass(frozen=True)
class CompareResult(Result):
    """A quantised model compared with its original on one text (docs/methods/measuring.md).

    `kl_*` in nats per token, from the original to the quantised model. `top1_agreement`: the share of tokens, 0 to 1, where both give
    the highest probability to the same token. `*_ci95`: 95 % intervals (low, high), None for a text of a single window.
    `windows_sha256`: two results may be compared with each other if it is equal. `kl_by_position`: ranges of positions in a window.
    `forward`: what ran the quantised model, "torch", "native" or "int4" and the like.
    """

    kl_mean: float
    kl_ci95: Interval | None
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_ci95: Interval | None
    ppl_base: float
    ppl_quantized: float
    delta_ppl: float
    delta_ppl_ci95: Interval | None
    tokens: int
    windows: int
    windows_sha256: str
    resamples: int
    seed: int
    kl_by_position: tuple[PositionKL, ...] = ()
    forward: str = "torch"


@dataclass(frozen=True)
class EvaluateResult(Result):
    """`nll` in nats per token; `ppl` is exp(nll); `bits_per_byte` of the text in UTF-8 can be compared between tokenizers.

    `forward` as in CompareResult.
    """

    ppl: float
    nll: float
    bits_per_byte: float
    tokens: int
    windows: int
    forward: str = "torch"


@dataclass(frozen=True)
class LambadaResult(Result):
    """`ppl` is for each last word. `acc`: the share of documents, 0 to 1, where the last word is the likeliest one.

    `forward` as in CompareResult.
    """

    ppl: float
    acc: float
    docs: int
    forward: str = "torch"


@dataclass(frozen=True)
class ClassificationScores(Result):
    """`top1`, `top5`: the share of images, 0 to 1, whose class is the likeliest, or among the five likeliest (None for 5 classes or fewer).

    `*_ci95`: 95 % intervals (low, high) over images. `images_sha256`: of the images, decoded.
    """

    top1: float
    top1_ci95: Interval | None
    images: int
    images_sha256: str
    resamples: int
    seed: int
    top5: float | None = None
    top5_ci95: Interval | None = None


@dataclass(frozen=True)
class SegmentationScores(Result):
    """`miou`: mean over classes of the intersection over union of pixels; `iou` of each class, None if no pixel has it.

    `pixel_accuracy`: the share of pixels. Other fields as in ClassificationScores.
    """

    miou: float
    miou_ci95: Interval | None
    pixel_accuracy: float
    pixel_accuracy_ci95: Interval | None
    iou: tuple[float | None, ...]
    images: int
    images_sha256: str
    resamples: int
    seed: int


@dataclass(frozen=True)
class DetectionScores(Result):
    """`ap`: COCO's average precision over overlaps 0.50 to 0.95; `ap50` at 0.50; `ap50_of_class`, None for a class without true boxes.

    Other fields as in ClassificationScores.
    """

    ap: float
    ap_ci95: Interval | None
    ap50: float
    ap50_ci95: Interval | None
    ap50_of_class: tuple[float | None, ...]
    images: int
    images_sha256: str
    resamples: int
    seed: int


@dataclass(frozen=True)
class ImageCompareResult(Result):
    """A quantised model for images compared with its original on one set (docs/methods/vision.md).

    `kl_*` in nats per position: an image, a pixel or a patch; `positions` of each image. `kl_p99` and `kl_max` are of images.
    `top1_agreement`: the share of positions, 0 to 1, where both predict the same. `score` is "top1", "miou" or "ap50" if the set has
    labels, else None, and so are the `*_score*`. `*_ci95`: 95 % intervals (low, high) over images.
    """

    kl_mean: float
    kl_ci95: Interval | None
    kl_p99: float
    kl_max: float
    top1_agreement: float
    top1_ci95: Interval | None
    score: str | None
    score_base: float | None
    score_quantized: float | None
    delta_score: float | None
    delta_score_ci95: Interval | None
    positions: int
    images: int
    images_sha256: str
    resamples: int
    seed: int


@dataclass(frozen=True)
class ExportResult(Result):
    """`file_bytes`: of the file, or of all files in the directory."""

    output: str
    layout: str
    tensors: int
    file_bytes: int


@dataclass(frozen=True)
class CheckpointTensor:
    """`role` is "projection", "lora", "elementwise", "norm", "bias", "setting", "state", "embedding", "head", "unused" or "carried"."""

    name: str
    role: str
    dtype: str
    shape: tuple[int, ...]
    bits_per_weight: float


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint. Names and shapes are BlinkDL's in every layout. `parameters` counts what is in the file: a tied head is not.

    `tokenizer`: the kind of docs/format.md that the tokenizer in the file or next to it has; None if there is none that fits.
    `tokenizer_source`: where it was found, or a sentence that says why not.
    """

    file: str
    format: str
    layout: str
    arch: str
    dims: Dims
    dtype: str
    parameters: int
    parameters_by_role: dict[str, int]
    tied_head: bool
    time_state: bool
    tokenizer: str | None
    tokenizer_source: str
    file_bytes: int
    bits_per_weight: float
    bits_per_weight_file: float
    tensors: tuple[CheckpointTensor, ...]
    summary: dict[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        return self.summary


@dataclass(frozen=True)
class PackedInfo:
    """A packed file. `tokenizer` is its kind, None for a model for images. `image`: its settings, None for a text model.

    `decoded_layouts`: those of matrices that no native product reads, so they are decoded.

    `quantization_config`: what was asked for and what ran; `provenance`: the checkpoint and the text it was made from.
    """

    file: str
    format_version: str
    arch: str
    dims: Dims
    tokenizer: str | None
    image: ImageSettings | None
    quantization_config: dict[str, Any]
    provenance: dict[str, Any]
    decoded_layouts: tuple[str, ...]
    file_bytes: int
    bits_per_weight: float | None
    bits_per_weight_projections: float | None
    bits_per_weight_file: float | None
    ledger: tuple[LedgerRow, ...]
    tensors: tuple[LedgerItem, ...]
    summary: dict[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        return self.summary


@dataclass(frozen=True)
class ClassScore:
    """A class by its number and name, with its probability, 0 to 1."""

    index: int
    name: str
    probability: float


@dataclass(frozen=True)
class ClassifyResult(Result):
    """The likeliest classes of an image, the best first."""

    top: tuple[ClassScore, ...]


@dataclass(frozen=True)
class ClassShare:
    """A class by its number and name, and the share of an image's pixels that it has, above 0 and at most 1."""

    index: int
    name: str
    share: float


@dataclass(frozen=True)
class SegmentResult(Result):
    """`labels` (height, width): the number of the class of each pixel. `shares`: the classes that are there, the largest first."""

    labels: NDArray[np.uint8] | NDArray[np.uint16]
    shares: tuple[ClassShare, ...]

    def to_json(self) -> dict[str, Any]:
        """Without `labels`; `height` and `width` are theirs."""
        height, width = self.labels.shape
        return {"height": height, "width": width, "shares": [dataclasses.asdict(share) for share in self.shares]}


@dataclass(frozen=True)
class FoundBox:
    """A class by its number and name, the score of the box, 0 to 1, and its sides in pixels from the image's left and upper edge."""

    index: int
    name: str
    score: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class DetectResult(Result):
    """The boxes of an image, the best first."""

    boxes: tuple[FoundBox, ...]
