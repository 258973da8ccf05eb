"""GGUF files as the `gguf` package writes them with the names of llama.cpp's converter, and files that nobody should write."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import EmbeddedTokenizer, open_checkpoint
from rwkvquant.checkpoints.gguf_file import GgufFile
from rwkvquant.checkpoints.gguf_header import TYPES, read_header
from rwkvquant.checkpoints.gguf_tokenizer import escaped, unescaped
from rwkvquant.checkpoints.tensor_info import BITS
from rwkvquant.errors import CheckpointError
from rwkvquant.runtime.tokenizer import load_tokenizer
from rwkvquant.runtime.tokenizer_world import load_world
from tests.checkpoints.layouts import GGUF, Tensors
from tests.helpers import random_state_dict

RANKS = {"Rw": 5, "Ra": 7, "Rv": 11, "Rg": 13, "Rm": 3, "Rd": 17}
Q = gguf.GGMLQuantizationType


def model(arch: str, **options: Any) -> Tensors:
    return random_state_dict(arch, **{"layers": 3, "width": 48, "hidden": 100, "ranks": RANKS, "dtype": torch.float16, **options})


def write(
    path: Path,
    arch: str,
    tensors: Mapping[str, torch.Tensor],
    kind: Callable[[str, torch.Tensor], Q] = lambda name, t: Q.F16,
    extra: Callable[[Any], None] = lambda writer: None,
    head_size: int = 16,
) -> Path:
    writer = gguf.GGUFWriter(path, arch)
    writer.add_wkv_head_size(head_size)
    extra(writer)
    for name, tensor in tensors.items():
        chosen = kind(name, tensor)
        values = tensor.float().contiguous().numpy()
        writer.add_tensor(name, gguf.quantize(values, chosen), raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def head_size(tensors: Tensors, arch: str) -> int:
    return tensors["blocks.0.att.r_k" if arch == "rwkv7" else "blocks.0.att.time_faaaa"].shape[1]


@pytest.mark.parametrize("kind", [Q.F32, Q.F16], ids=str)
@pytest.mark.parametrize("arch", GGUF)
def test_every_tensor_arrives_under_our_name_and_shape(tmp_path: Path, arch: str, kind: Q) -> None:
    original = model(arch)
    path = write(tmp_path / "m.gguf", arch, GGUF[arch](original), lambda name, t: kind, head_size=head_size(original, arch))
    checkpoint = open_checkpoint(path)
    unused = {f"blocks.0.att.v{i}" for i in range(3)}
    assert (checkpoint.arch, checkpoint.format, checkpoint.layout) == (arch, "gguf", "gguf")
    assert checkpoint.tensors.keys() == original.keys() - unused
    for name, info in checkpoint.tensors.items():
        values = checkpoint.read(name)
        assert info.shape == values.shape == tuple(original[name].shape) and info.dtype == {Q.F32: "float32", Q.F16: "float16"}[kind]
        np.testing.assert_array_equal(values, original[name].float().numpy(), err_msg=name)


def test_weights_divided_for_16_bit_sums_are_multiplied_back(tmp_path: Path) -> None:
    """What writes the residual stream of RWKV-6 is divided by 2^(layer / n) by the converter."""
    original = model("rwkv6")
    stored = GGUF["rwkv6"](original)
    for layer in range(3):
        for name in ("time_mix_output", "channel_mix_value"):
            stored[f"blk.{layer}.{name}.weight"] = stored[f"blk.{layer}.{name}.weight"].float() / 2 ** (layer // 2)
    rescaled = lambda writer: writer.add_rescale_every_n_layers(2)  # noqa: E731
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", "rwkv6", stored, lambda n, t: Q.F32, rescaled, head_size(original, "rwkv6")))
    for name in checkpoint.tensors:
        np.testing.assert_array_equal(checkpoint.read(name), original[name].float().numpy(), err_msg=name)


@pytest.mark.parametrize("kind", [Q.BF16, Q.Q8_0, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1], ids=str)
def test_matrices_in_blocks_are_what_the_gguf_package_decodes(tmp_path: Path, kind: Q) -> None:
    original = model("rwkv7", width=64, hidden=96)
    stored = GGUF["rwkv7"](original)
    chosen = lambda name, t: kind if t.ndim == 2 and t.shape[1] % 32 == 0 else Q.F32  # noqa: E731
    checkpoint = open_checkpoint(write(tmp_path / "m.gguf", "rwkv7", stored, chosen, head_size=head_size(original, "rwkv7")))
    info = checkpoint.tensors["blocks.1.att.key.weight"]
    assert info.dtype == ("bfloat16" if kind == Q.BF16 else kind.name.lower())
    for name, theirs in (
        ("blocks.1.att.key.weight", "blk.1.time_mix_key.weight"),
        ("blocks.2.ffn.value.weight", "blk.2.channel_mix_value.weight"),
    ):
        expected = gguf.dequantize(gguf.quantize(stored[theirs].float().numpy(), kind), kind)
        np.testing.assert_array_equal(checkpoint.read(name), expected)
    assert checkpoint.summary()["bits_per_weight_projections"] == info.bits


@pytest.mark.parametrize("kind", [kind for kind in TYPES.values() if kind.block > 1], ids=lambda kind: kind.name)
def test_block_sizes_are_the_packages(tmp_path: Path, kind: Any) -> None:
    theirs = Q(kind.number)
    assert theirs.name.lower() == kind.name.lower() and gguf.GGML_QUANT_SIZES[theirs] == (kind.block, kind.size)
    assert BITS[kind.name] == 8 * kind.size / kind.block
    data = np.random.default_rng(0).integers(0, 60, (3, 2 * kind.size), np.uint8)  # small bytes: finite scales
    path = raw(tmp_path / "m.gguf", {"general.architecture": (8, string("rwkv7")), "rwkv7.wkv.head_size": (4, u32(16))},
               [("x.weight", (3, 2 * kind.block), kind.number, 0)], data.tobytes())  # fmt: skip
    np.testing.assert_array_equal(GgufFile(path).read("x.weight"), gguf.dequantize(data, theirs))


def test_without_the_package_one_sentence_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    path = raw(tmp_path / "m.gguf", GOOD, [("x.weight", (1, 32), 8, 0)], bytes(34))
    with pytest.raises(CheckpointError, match=r"q8_0 are decoded by the gguf package; install it: .*\[gguf\]"):
        GgufFile(path).read("x.weight")


def test_the_world_vocabulary_of_a_file_is_used(tmp_path: Path) -> None:
    world = load_world()
    for token in world:
        assert unescaped(escaped(token)) == token

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("rwkv")
        tokens = [b"<s>", *(repr(token)[2:-1].encode() for token in world[1:])]
        padding = 65536 - len(tokens)
        writer.add_token_list(tokens + [f"[PAD{i}]".encode() for i in range(padding)])
        writer.add_token_types([3] + [1] * (len(tokens) - 1) + [5] * padding)

    original = model("rwkv7", width=16, hidden=16, layers=1, vocab=65536)
    checkpoint = open_checkpoint(
        write(tmp_path / "m.gguf", "rwkv7", GGUF["rwkv7"](original), extra=add, head_size=head_size(original, "rwkv7"))
    )
    assert isinstance(checkpoint.tokenizer, EmbeddedTokenizer)
    found, own = load_tokenizer(checkpoint.tokenizer, 65536), load_tokenizer("world", 65536)
    text = 'The old man\'s "sea", naïve\r\n\t\\x41 早上好 🌍 \x00'
    assert found.encode(text) == own.encode(text) and found.decode(found.encode(text)) == text


def u32(value: int) -> bytes:
    return struct.pack("<I", value)


def string(text: str | bytes) -> bytes:
    data = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(data)) + data


GOOD = {"general.architecture": (8, string("rwkv7")), "rwkv7.wkv.head_size": (4, u32(16))}
X = ("x.weight", (2, 3), 0, 0)


def raw(
    path: Path, entries: dict[str, tuple[int, bytes]], tensors: list[tuple], data: bytes = bytes(64), claims: Mapping[str, int] = {}
) -> Path:
    """A file by hand. `claims`: version, tensors, entries."""
    said = {"version": 3, "tensors": len(tensors), "entries": len(entries)} | dict(claims or {})
    head = b"GGUF" + struct.pack("<IQQ", said["version"], said["tensors"], said["entries"])
    head += b"".join(string(key) + u32(kind) + value for key, (kind, value) in entries.items())
    for name, shape, number, offset in tensors:
        head += (
            string(name)
            + u32(len(shape))
            + b"".join(struct.pack("<Q", size) for size in reversed(shape))
            + struct.pack("<IQ", number, offset)
        )
    path.write_bytes(head.ljust(-(-len(head) // 32) * 32, b"\0") + data)
    return path


HUGE = 1 << 60
BAD: dict[str, tuple[dict[str, tuple[int, bytes]], list[tuple], dict[str, int], str]] = {
    "version 1": (GOOD, [X], {"version": 1}, "version 2 or 3"),
    "big-endian": (GOOD, [X], {"version": 3 << 24}, "little-endian"),
    "many tensors": (GOOD, [X], {"tensors": HUGE}, "at most 65536 tensors"),
    "many entries": (GOOD, [X], {"entries": HUGE}, "at most 4096 entries"),
    "one tensor too few": (GOOD, [X], {"tensors": 2}, "truncated|dimensions|at most"),
    "no tensors": (GOOD, [], {}, "holds no tensors"),
    "a long string": ({**GOOD, "a": (8, struct.pack("<Q", HUGE))}, [X], {}, "at most 1048576 bytes"),
    "a long array": ({**GOOD, "a": (9, u32(0) + struct.pack("<Q", HUGE))}, [X], {}, "at most 1048576 items"),
    "an array of arrays": ({**GOOD, "a": (9, u32(9) + struct.pack("<Q", 1))}, [X], {}, "holds numbers or strings"),
    "an unknown kind": ({**GOOD, "a": (77, b"")}, [X], {}, "has the kind 77"),
    "another architecture": ({"general.architecture": (8, string("mamba"))}, [X], {}, "is rwkv6 or rwkv7 or llama; got .*mamba"),
    "no head size": ({"general.architecture": (8, string("rwkv7"))}, [X], {}, "head_size of a GGUF file is a whole number"),
    "an odd alignment": ({**GOOD, "general.alignment": (4, u32(33))}, [X], {}, "power of two"),
    "alignment 0": ({**GOOD, "general.alignment": (4, u32(0))}, [X], {}, "power of two"),
    "a tensor twice": (GOOD, [X, X], {}, "holds .*x.weight.* twice"),
    "tensors that share bytes": (GOOD, [X, ("y.weight", (2, 3), 0, 0)], {}, "must not share bytes"),
    "a tensor beyond the end": (GOOD, [("x.weight", (2, 3), 0, 64)], {}, "the file is truncated"),
    "a huge tensor": (GOOD, [("x.weight", (HUGE, HUGE), 0, 0)], {}, "the file is truncated"),
    "a huge offset": (GOOD, [("x.weight", (2, 3), 0, HUGE)], {}, "the file is truncated"),
    "an odd offset": (GOOD, [("x.weight", (2, 3), 0, 8)], {}, "a multiple of 32 bytes"),
    "a size of 0": (GOOD, [("x.weight", (2, 0), 0, 0)], {}, "sizes are at least 1"),
    "five dimensions": (GOOD, [("x.weight", (1,) * 5, 0, 0)], {}, "1 to 4 dimensions"),
    "an unknown type": (GOOD, [("x.weight", (2, 3), 99, 0)], {}, "the type with the number 99"),
    "part of a block": (GOOD, [("x.weight", (2, 48), 8, 0)], {}, "a multiple of 32 weights"),
    "a name that cannot be shown": (GOOD, [("x\n", (2, 3), 0, 0)], {}, "name is printable"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_breaks_a_rule_is_refused_in_one_sentence_and_without_its_memory(tmp_path: Path, case: str) -> None:
    entries, tensors, claims, sentence = BAD[case]
    path = raw(tmp_path / "m.gguf", entries, tensors, claims=claims)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=sentence) as error:
            GgufFile(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(error.value) and len(str(error.value)) < 400


def test_the_smallest_file_is_what_the_format_says(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.gguf", GOOD, [X], np.arange(6, dtype="<f4").tobytes())
    np.testing.assert_array_equal(GgufFile(path).read("x.weight"), [[0, 1, 2], [3, 4, 5]])


def test_every_cut_and_every_altered_byte_is_found_or_harmless(tmp_path: Path) -> None:
    entries = {
        **GOOD,
        "tokenizer.ggml.model": (8, string("rwkv")),
        "tokenizer.ggml.tokens": (9, u32(8) + struct.pack("<Q", 2) + string("a") * 2),
    }
    path = raw(tmp_path / "m.gguf", entries, [X], np.arange(6, dtype="<f4").tobytes())
    good = path.read_bytes()
    refused = 0
    for content in [good[:length] for length in range(5, len(good))] + [
        good[:i] + bytes([good[i] ^ mask]) + good[i + 1 :] for i in range(4, len(good)) for mask in (0x01, 0x80, 0xFF)
    ]:
        path.write_bytes(content)
        try:
            file = GgufFile(path)
            for name in file.tensors:
                file.read(name)
        except CheckpointError as error:
            assert len(str(error)) < 400
            refused += 1
    assert refused > len(good)


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = raw(tmp_path / "m.gguf", GOOD, [("x.weight", (1, 32), 8, 0)], b"\x00\x7c" + bytes(range(1, 33)))  # an infinite scale
    with pytest.raises(CheckpointError, match=r"weights must be finite; x\.weight has 32"):
        GgufFile(path).read("x.weight")


def test_a_header_is_what_the_package_reads(tmp_path: Path) -> None:
    original = model("rwkv6")
    path = write(tmp_path / "m.gguf", "rwkv6", GGUF["rwkv6"](original), head_size=head_size(original, "rwkv6"))
    ours, theirs = read_header(memoryview(path.read_bytes())), gguf.GGUFReader(path)
    assert {t.name: (t.shape, t.begin) for t in ours.tensors.values()} == {
        t.name: (tuple(int(size) for size in reversed(t.shape)), t.data_offset) for t in theirs.tensors
    }
