from __future__ import annotations

import re

import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES, Dims
from rwkvquant.checkpoints.detect import detect
from rwkvquant.errors import CheckpointError
from tests.helpers import DEFAULT_RANKS, TEXT, random_state_dict

Shapes = dict[str, tuple[int, ...]]


def shapes_of(arch: str, **sizes: object) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in random_state_dict(arch, **sizes).items()}


def with_block(added: Shapes) -> Shapes:
    """An RWKV-7 with more tensors in its blocks."""
    return shapes_of("rwkv7") | {f"blocks.{layer}.{name}": shape for layer in range(2) for name, shape in added.items()}


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize(("width", "head_size"), [(32, 8), (32, 32), (96, 16), (96, 32), (192, 64), (64, 64), (40, 8)])
@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_all_sizes_are_read_from_the_shapes(arch: str, width: int, head_size: int, layers: int) -> None:
    ranks = {"Rw": 5, "Ra": 7, "Rv": 11, "Rg": 13, "Rm": 3, "Rd": 17}
    shapes = shapes_of(arch, layers=layers, width=width, head_size=head_size, hidden=3 * width + 8, vocab=257, ranks=ranks)
    own = {"rwkv7": ["Rw", "Ra", "Rv", "Rg"] if layers > 1 else ["Rw", "Ra", "Rg"], "rwkv6": ["Rm", "Rd"]}[arch]
    expected = Dims(layers, width, 3 * width + 8, 257, width // head_size, head_size, {rank: ranks[rank] for rank in own})
    assert detect(shapes) == (ARCHITECTURES[arch], expected)


def test_the_order_of_tensors_does_not_matter() -> None:
    shapes = shapes_of("rwkv6", layers=3)
    assert detect(dict(reversed(shapes.items()))) == detect(shapes)


@pytest.mark.parametrize("layers", [1, 3])
def test_the_first_layer_may_lack_v(layers: int) -> None:
    shapes = shapes_of("rwkv7", layers=layers)
    without = {name: shape for name, shape in shapes.items() if name not in ("blocks.0.att.v0", "blocks.0.att.v1", "blocks.0.att.v2")}
    assert len(without) == len(shapes) - 3
    assert detect(without) == detect(shapes)


def test_every_other_tensor_is_required_and_named() -> None:
    for arch in TEXT:
        shapes = shapes_of(arch, layers=3)
        for name in shapes:
            if re.fullmatch(r"blocks\.0\.att\.v[012]", name):
                continue
            with pytest.raises(CheckpointError, match=rf"lacks {re.escape(name)}, "):
                detect({other: shape for other, shape in shapes.items() if other != name})


def test_a_missing_layer_is_named() -> None:
    shapes = {name: shape for name, shape in shapes_of("rwkv7", layers=4).items() if not name.startswith("blocks.2.")}
    with pytest.raises(CheckpointError, match=r"lacks blocks\.2\.ln1\.weight, which every RWKV-7 \(x070\) of 4 layers has"):
        detect(shapes)


@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_every_wrong_shape_is_refused(arch: str) -> None:
    """For each tensor: a size one too large, a dimension too many, a dimension too few. The others must agree with emb.weight."""
    shapes = shapes_of(arch, layers=2, vocab=300)
    for name, shape in shapes.items():
        larger = [tuple(size + (i == axis) for i, size in enumerate(shape)) for axis in range(len(shape))]
        for wrong in [*larger, (1, *shape), shape[1:]]:
            with pytest.raises(CheckpointError, match=r"must have the shape|must be the width"):
                detect(shapes | {name: wrong})


def test_a_wrong_shape_is_explained() -> None:
    with pytest.raises(CheckpointError) as caught:
        detect(shapes_of("rwkv7") | {"blocks.1.att.w2": (64, 16)})
    assert str(caught.value) == (
        "blocks.1.att.w2 must have the shape (Rw, C), Rw = 16 as in blocks.0.att.w1, C = 64 as in emb.weight; got (64, 16)"
    )
    with pytest.raises(CheckpointError, match=r"time_maa_w1 must have the shape \(C, 5\*Rm\), C = 64 as in emb\.weight; got \(64, 41\)"):
        detect(shapes_of("rwkv6") | {"blocks.0.att.time_maa_w1": (64, 41)})


def test_heads_must_make_up_the_width() -> None:
    shapes = shapes_of("rwkv7", layers=1, width=64, head_size=16)
    with pytest.raises(CheckpointError, match="heads x head_size must be the width 64; got 4 x 15"):
        detect(shapes | {"blocks.0.att.r_k": (4, 15)})


@pytest.mark.parametrize(
    "name", ["extra", "blocks.0.att.extra", "blocks.1.att.key.weight.lora_A", "blocks.01.att.key.weight", "blocks.1.ln0.weight"]
)
def test_unknown_tensors_are_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match=rf"RWKV-7 \(x070\) has no tensor {re.escape(name)}; "):
        detect(shapes_of("rwkv7") | {name: (64,)})


@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_a_tuned_state_is_in_all_layers_or_in_none(arch: str) -> None:
    shapes = shapes_of(arch, layers=3, time_state=True)
    assert detect(shapes) == detect(shapes_of(arch, layers=3))
    with pytest.raises(CheckpointError, match=r"a tuned state .* for every block; the checkpoint lacks blocks\.1\.att\.time_state$"):
        detect({name: shape for name, shape in shapes.items() if name != "blocks.1.att.time_state"})
    with pytest.raises(CheckpointError, match=r"time_state must have the shape \(H, N, N\)"):
        detect(shapes | {"blocks.2.att.time_state": (4, 16, 8)})
    with pytest.raises(CheckpointError, match=r"tuned state \(time_state\) without its model"):
        detect({name: shape for name, shape in shapes.items() if name.endswith("time_state")})


def old_shapes(decay: tuple[int, ...], **more: tuple[int, ...]) -> Shapes:
    """Some tensors of an RWKV-4 or RWKV-5, with the names of their training code."""
    att = {f"att.time_mix_{c}": (1, 1, 64) for c in "kvr"} | {"att.time_decay": decay, "att.key.weight": (64, 64)}
    att |= {f"att.{name.replace('__', '.')}": shape for name, shape in more.items()}
    return {"emb.weight": (256, 64)} | {f"blocks.{layer}.{name}": shape for layer in range(2) for name, shape in att.items()}


LN_X, GATE = {"ln_x__weight": (64,)}, {"gate__weight": (64, 64)}
OTHERS = {
    "RWKV-4": old_shapes((64,), time_first=(64,)),
    "RWKV-5": old_shapes((4,), time_first=(4,), **LN_X),
    "RWKV-5.1": old_shapes((4, 1, 1), time_first=(4, 1, 1), **LN_X, **GATE),
    "RWKV-5.2": old_shapes((4, 16), time_faaaa=(4, 16), **LN_X, **GATE),
    "RWKV-7a": with_block({"ffn.s_emb.weight": (256, 1024), "ffn.s_emb_x.weight": (1024, 64), "ffn.s0": (1, 1, 256)}),
    "RWKV-7b": with_block({"ffn.s_emb.weight": (256, 1024), "qkv.qq.weight": (256, 64), "qkv.k1": (64, 32)}),
    "RWKV-8": with_block({"ffn.enn.weight": (256, 256)}),
    "RWKV-8 with ROSA": {"emb.weight": (256, 64), "blocks.0.rosa_qkv.q.weight": (64, 64)},
}


@pytest.mark.parametrize("title", OTHERS)
def test_other_architectures_are_recognised_and_refused(title: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        detect(OTHERS[title])
    message = str(caught.value)
    assert re.match(rf"{re.escape(title.split(' with ')[0])}( \(.*\))? is not supported; ", message)
    assert message.endswith(
        "RWKV-7 (x070), RWKV-6 (x060), Vision-RWKV and LLaMA checkpoints are supported, with the tensor names of BlinkDL, web-rwkv, fla, "
        "Hugging Face or OpenGVLab"
    )


@pytest.mark.parametrize("name", ["h.0.attn.c_attn.weight", "model.layers.0.attn.x_r", "model.blocks.0.att.r_k", "blocks.0.attn.w"])
def test_other_models_are_refused_with_one_of_their_names(name: str) -> None:
    with pytest.raises(
        CheckpointError, match=rf"no tensor here has a name of an RWKV checkpoint \(the first is '{re.escape(name)}'\); RWKV-7"
    ):
        detect({name: (3, 3)})


def test_the_tables_and_the_random_checkpoints_agree() -> None:
    """The tests above need a random_state_dict that has every line of the table."""
    for arch in TEXT:
        architecture = ARCHITECTURES[arch]
        made = {name.split(".", 2)[-1] if name.startswith("blocks.") else name for name in random_state_dict(arch, time_state=True)}
        assert made == {spec.name for spec in [*architecture.outside, *architecture.table]}
    assert set(DEFAULT_RANKS) == {"Rw", "Ra", "Rv", "Rg", "Rm", "Rd"}
    assert random_state_dict("rwkv7")["emb.weight"].dtype is torch.float32
