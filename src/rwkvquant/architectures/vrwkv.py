"""Vision-RWKV (VRWKV, arXiv:2403.02308): a backbone for images, with a head for classes, for segmentation or for boxes.

The names are those of OpenGVLab/Vision-RWKV. Heads are alternatives, so all are optional:

    head.fc                   classes, from the mean of all features
    decode_head.conv_seg      one 1 x 1 convolution: a class for each patch
    bbox_head                 FCOS with one level: a 3 x 3 convolution, then classes, box sides and centre-ness of each patch

Other heads (UperNet, Mask R-CNN) and ViT-Adapters are carried along under their own names. The forward ends before them.
The input of `ffn.value` is never negative in a block without a key norm.
"""

from __future__ import annotations

from rwkvquant.architectures.architecture import Architecture, Relative
from rwkvquant.architectures.base import Role, TensorSpec, norm, projection, vector
from rwkvquant.architectures.dims import Dims

SEGMENTER, DETECTOR = "decode_head.", "bbox_head."


def _optional_norm(name: str, size: str) -> list[TensorSpec]:
    return [TensorSpec(f"{name}.{part}", (size,), Role.NORM, optional=True) for part in ("weight", "bias")]


def _convolution(name: str, out: str | int, into: str, side: int, fed_by: str, group: str) -> list[TensorSpec]:
    return [
        TensorSpec(f"{name}.weight", (out, into, side, side), Role.HEAD, input=fed_by, optional=True, kernel=True, group=group),
        TensorSpec(f"{name}.bias", (out,), Role.BIAS, optional=True, group=group),
    ]


OUTSIDE = (
    TensorSpec("backbone.patch_embed.projection.weight", ("C", "I", "P", "P"), Role.EMBEDDING, input="patches", kernel=True),
    TensorSpec("backbone.patch_embed.projection.bias", ("C",), Role.BIAS),
    TensorSpec("backbone.pos_embed", (1, "G", "C"), Role.BIAS),
    *_optional_norm("backbone.ln1", "C"),  # final_norm=False leaves it out
    TensorSpec("head.fc.weight", ("K", "C"), Role.HEAD, input="head.x", optional=True, group="head."),
    TensorSpec("head.fc.bias", ("K",), Role.BIAS, optional=True, group="head."),
    *_convolution(f"{SEGMENTER}conv_seg", "K", "C", 1, "head.x", SEGMENTER),
    *_convolution(f"{DETECTOR}conv", "C", "C", 3, "head.around", DETECTOR),
    *_convolution(f"{DETECTOR}conv_cls", "K", "C", 1, "head.x", DETECTOR),
    *_convolution(f"{DETECTOR}conv_reg", 4, "C", 1, "head.x", DETECTOR),
    *_convolution(f"{DETECTOR}conv_centerness", 1, "C", 1, "head.x", DETECTOR),
)

TABLE = (
    TensorSpec("gamma1", ("C",), Role.NORM, optional=True),  # layer scale: multiplies what the block adds to the residual stream
    TensorSpec("gamma2", ("C",), Role.NORM, optional=True),
    *norm("ln0", layers="first"),
    *norm("ln1"),
    *norm("ln2"),
    TensorSpec("att.spatial_decay", ("C",), Role.BIAS),
    TensorSpec("att.spatial_first", ("C",), Role.BIAS),
    *(vector(f"att.spatial_mix_{c}", "att.shift_delta") for c in "kvr"),
    projection("att.key.weight", ("C", "C"), "att.xk"),
    projection("att.value.weight", ("C", "C"), "att.xv"),
    projection("att.receptance.weight", ("C", "C"), "att.xr"),
    *_optional_norm("att.key_norm", "C"),
    projection("att.output.weight", ("C", "C"), "att.out", writes_residual=True),
    *(vector(f"ffn.spatial_mix_{c}", "ffn.shift_delta") for c in "kr"),
    projection("ffn.key.weight", ("F", "C"), "ffn.xk"),
    *_optional_norm("ffn.key_norm", "F"),
    projection("ffn.receptance.weight", ("C", "C"), "ffn.xr"),
    projection(
        "ffn.value.weight", ("C", "F"), "ffn.hidden", writes_residual=True, nonnegative_input=True, negative_with="ffn.key_norm.weight"
    ),
)


_TINY = 192  # the width of VRWKV-T, which has its norms before the mixes and no layer scale


def _usual(dims: Dims) -> tuple[str, ...]:
    """Released classifiers."""
    ends = ("backbone.ln1.weight", "backbone.ln1.bias", "head.fc.weight", "head.fc.bias")
    return ends if dims.width == _TINY else ("gamma1", "gamma2", *ends)


def _released(layers: int, width: int, side: int = 224) -> Dims:
    return Dims(layers, width, 4 * width, positions=(side // 16) ** 2, patch=16, channels=3, classes=1000)


ARCHITECTURE = Architecture(
    name="vrwkv",
    title="Vision-RWKV",
    table=TABLE,
    outside=OUTSIDE,
    state=(),  # an image is read at once
    mark=r"^backbone\.layers\.\d+\.att\.spatial_decay$",
    anchors=("backbone.pos_embed", "att.key.weight", "ffn.key.weight"),
    tasks={"classify": "head.fc.weight", "segment": f"{SEGMENTER}conv_seg.weight", "detect": f"{DETECTOR}conv_cls.weight"},
    mix_norms={"ln1": "gamma1", "ln2": "gamma2"},
    modality="image",
    block="backbone.layers.",
    relatives=(Relative(r"^backbone\.layers\.\d+\.att\.time_(maa|decay|faaaa)", "VRWKV6 (Vision-RWKV with the time mix of RWKV-6)"),),
    released={
        "vrwkv-t": _released(12, 192),
        "vrwkv-s": _released(12, 384),
        "vrwkv-b": _released(12, 768),
        "vrwkv-l": _released(24, 1024, side=384),
    },
    usual=_usual,
    # A ViT-Adapter is inside the backbone. Other unknown tensors of the backbone would change the forward, so they are refused.
    others=r"(?!backbone\.).+|backbone\.(level_embed|(spm|interactions|up|norm[1-4])\..+)",
)


def released_post_norm(dims: Dims) -> bool:
    """Whether the norms of a released classifier of these sizes follow its mixes."""
    return "gamma1" in _usual(dims)


def family_of(dims: Dims) -> str | None:
    """ "vrwkv-t", "-s", "-b" or "-l" by layers and width, whatever the image's size and the head are; None for other sizes."""
    found = (name for name, each in ARCHITECTURE.released.items() if (each.layers, each.width) == (dims.layers, dims.width))
    return next(found, None)
