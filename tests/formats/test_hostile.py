"""Hostile files, with a valid checksum over a false header: a reader refuses them or works, and nothing else happens."""

from __future__ import annotations

import copy
import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.header import LENGTH_BYTES, PREFIX, with_checksum
from tests.formats.examples import write_model
from tests.fuzz import packed
from tests.fuzz.choices import Choices
from tests.fuzz.json_tree import mutate
from tests.fuzz.packed import put_together, with_header

ROUNDS = 400


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_model(tmp_path_factory.mktemp("packed") / "m.safetensors").read_bytes()


def take_apart(file: bytes) -> tuple[dict[str, Any], bytes]:
    """-> (header with the JSON inside its metadata decoded too, data)."""
    parts = packed.take_apart(file)
    return parts.header, b"".join(parts.arrays.values())


def use_everything(path: Path) -> None:
    file = open_packed(path)
    file.summary()
    assert file.ledger().file_bytes == path.stat().st_size
    for name, entry in file.tensors.items():
        assert file.qtensor(name).decode().shape == entry.shape
    file.verify()


def test_taking_apart_and_putting_together_changes_nothing_that_matters(original: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(put_together(*take_apart(original)))
    use_everything(path)


@pytest.mark.long
def test_a_false_header_is_refused_or_harmless(original: bytes, tmp_path: Path) -> None:
    header, data = take_apart(original)
    path, rng, refused = tmp_path / "m.safetensors", random.Random(2), 0
    choices = Choices(rng.randrange)
    path.write_bytes(original)
    use_everything(path)  # what is imported and kept at the first use does not count
    tracemalloc.start()
    for _ in range(ROUNDS):
        changed = copy.deepcopy(header)
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            mutate(changed, choices)
        path.write_bytes(put_together(changed, data))
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            use_everything(path)
        except FormatError as error:
            refused += 1
            assert "m.safetensors: " in str(error) and len(str(error)) < 600
        assert tracemalloc.get_traced_memory()[1] - before < 64 * len(original)
    tracemalloc.stop()
    assert ROUNDS // 3 < refused < ROUNDS  # both ends are reached


def test_header_text_that_is_damaged_is_refused_or_harmless(original: bytes, tmp_path: Path) -> None:
    stop = LENGTH_BYTES + int.from_bytes(original[:LENGTH_BYTES], "little")
    text, data = original[LENGTH_BYTES:stop].rstrip(b" "), original[stop:]
    path, rng = tmp_path / "m.safetensors", random.Random(3)
    for _ in range(ROUNDS):
        damaged = bytearray(text)
        for _ in range(rng.choice([1, 2, 8])):
            at = rng.randrange(len(PREFIX) + 8, len(damaged))
            damaged[at : at + rng.choice([0, 1, 1, 5])] = bytes(
                rng.choice(b'0123456789{}[]",:\\ntfu-e.\xff\x00') for _ in range(rng.choice([0, 1, 1, 3]))
            )
        path.write_bytes(with_header(bytes(damaged), data))
        try:
            use_everything(path)
        except FormatError as error:
            assert "m.safetensors: " in str(error)


Change = Callable[[dict[str, Any]], Any]


def tensor(header: dict[str, Any], name: str) -> dict[str, Any]:
    return next(entry for entry in header["__metadata__"]["tensors"]["tensors"] if entry["name"] == name)


def tokenizer(header: dict[str, Any]) -> dict[str, Any]:
    return header["__metadata__"]["tokenizer"]["arrays"]


KEY = "blocks.0.att.receptance.weight"
CODEBOOK, PAIRS = "blocks.0.att.a1", "blocks.0.att.a2"
LIES: dict[str, tuple[Change, str]] = {
    "huge shape": (lambda h: tensor(h, KEY).update(shape=[1 << 30, 1 << 22], source_shape=[1 << 52]), r"codes of .* must be"),
    "shape of large numbers": (lambda h: tensor(h, KEY).update(shape=[1 << 60, 1]), "integer is too large"),
    "other shape": (lambda h: tensor(h, KEY).update(shape=[16, 64], source_shape=[1024]), r"must be .*|must have the shape"),
    "empty shape": (lambda h: tensor(h, KEY).update(shape=[0, 32]), "sizes of at least 1"),
    "unknown layout": (lambda h: tensor(h, KEY).update(layout="trellis3.t16x32"), "not a layout this version reads"),
    "unknown transform": (lambda h: tensor(h, KEY).update(input_transform="hadamard+sign"), "knows no transform 'hadamard[+]sign'"),
    "group of zero": (lambda h: tensor(h, KEY).update(group_size=0), "multiple of 32"),
    "rows of a table": (lambda h: tensor(h, CODEBOOK).update(group_rows=2), "group_rows of codebook4.t16x32 must be 4 or 8 or 16; got 2"),
    "more tables": (lambda h: tensor(h, CODEBOOK).update(group_rows=4, rank=8), "basis of .* must be 128 x int8; got 64"),
    "rank without coefficients": (lambda h: tensor(h, CODEBOOK).update(rank=0, shift=0), "has the arrays codes, codebooks, row_scale"),
    "huge rank": (lambda h: tensor(h, CODEBOOK).update(rank=1 << 50), "must be 0 to 8"),
    "huge shift": (lambda h: tensor(h, CODEBOOK).update(shift=1 << 50), "must be 0 to 14"),
    "rank that is no number": (lambda h: tensor(h, CODEBOOK).update(rank="2"), "must be int"),
    "rank missing": (lambda h: tensor(h, CODEBOOK).pop("rank"), "rank"),
    "signed against unsigned": (lambda h: h[CODEBOOK + ".basis"].update(dtype="U8"), "basis of .* must be 64 x int8; got 64 x uint8"),
    "rows of a table of pairs": (lambda h: tensor(h, PAIRS).update(group_rows=1), "a multiple of 16; got 1"),
    "array missing in the table": (lambda h: tensor(h, KEY)["arrays"].pop("zeros"), "has the arrays codes"),
    "array missing in the file": (lambda h: tensor(h, KEY)["arrays"].update(bias="00000000"), "got codes, scales, row_scale, zeros, bias"),
    "tensor twice": (lambda h: h["__metadata__"]["tensors"]["tensors"].append(tensor(h, KEY)), "twice"),
    "tensor not in the table": (lambda h: h["__metadata__"]["tensors"]["tensors"].remove(tensor(h, KEY)), "belongs to no tensor"),
    "name that breaks out": (lambda h: tensor(h, KEY).update(name="../../etc/passwd"), "a tensor's name is letters"),
    "bool as int": (lambda h: tensor(h, KEY).update(group_size=True), "must be int"),
    "other format": (lambda h: h["__metadata__"].update(format="gguf"), "format must be rwkvquant"),
    "later version": (lambda h: h["__metadata__"].update(format_version="9"), "reads format version 1; the file has '9'"),
    "unknown architecture": (lambda h: h["__metadata__"]["model"].update(arch="rwkv9"), "rwkv6, rwkv7; the file holds 'rwkv9'"),
    "many layers": (lambda h: h["__metadata__"]["model"]["dims"].update(layers=1 << 30), "layers"),
    "other head size": (lambda h: h["__metadata__"]["model"]["dims"].update(heads=1 << 20), "heads x head_size"),
    "unaligned": (lambda h: h[KEY + ".codes"].update(data_offsets=[1, 385]), "follow one another without gaps"),
    "overlap": (lambda h: h[KEY + ".codes"].update(data_offsets=[0, 384]), "follow one another without gaps"),
    "beyond the end": (lambda h: h["tokenizer.table"].update(shape=[1 << 40], data_offsets=[0, 1 << 40]), "one after|follow"),
    "shape against offsets": (lambda h: h[KEY + ".codes"].update(shape=[383]), "must take 383 bytes"),
    "two axes": (lambda h: h[KEY + ".codes"].update(shape=[1, 384]), "one axis"),
    "unknown dtype": (lambda h: h[KEY + ".codes"].update(dtype="F64"), "one of the dtypes U8, I8, U16, I16, U32, I32, F16, F32"),
    "tokenizer length": (lambda h: tokenizer(h)["table"].update(bytes=1 << 40), "tokenizer's table"),
    "tokenizer array that is not there": (lambda h: tokenizer(h).update(x={"bytes": 1, "crc32": "0" * 8}), "tokenizer's x"),
    "metadata that is no string": (lambda h: h["__metadata__"].update(a=1), "must be str"),
    "quantised by another": (lambda h: h["__metadata__"]["quantization_config"].update(quant_method="gptq"), "quant_method"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_in_one_sentence(original: bytes, tmp_path: Path, lie: str) -> None:
    change, message = LIES[lie]
    header, data = take_apart(original)
    change(header)
    path = tmp_path / "m.safetensors"
    path.write_bytes(put_together(header, data))
    with pytest.raises(FormatError, match=message):
        open_packed(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'"}' + b',"a":' + b"[" * 200_000, "is not valid JSON"),
        (b'","a":"b","a":"c"}}', "twice"),
        (b'"},"x":NaN}', "not a number of JSON"),
        (b'"},"x":1e999}', "too large"),
        (b'"},"x":' + b"9" * 5000 + b"}", "too large"),
        (b'"},"x":"\xff"}', "is not valid JSON"),
        (b'"},"x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}', "belong to nothing|format"),
        (b'"}', "is not valid JSON"),
    ],
    ids=["deep", "duplicate", "NaN", "infinite", "long integer", "not text", "nothing inside", "not closed"],
)
def test_json_that_hurts_is_refused(original: bytes, tmp_path: Path, text: bytes, message: str) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(PREFIX + b"00000000" + text, original[-64:]))
    with pytest.raises(FormatError, match=message):
        open_packed(path)


def test_a_header_longer_than_the_bound_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    for length in (1 << 63, (1 << 64) - 1, (16 << 20) + 56, 1 << 20):
        path.write_bytes(length.to_bytes(8, "little") + PREFIX + bytes(1000))
        with pytest.raises(FormatError, match="may take"):
            open_packed(path)
    length = (16 << 20) + 56  # a file that really is so long
    path.write_bytes(length.to_bytes(8, "little") + PREFIX)
    os.truncate(path, LENGTH_BYTES + length)
    with pytest.raises(FormatError, match="may take 16777216 bytes here"):
        open_packed(path)


def test_data_that_does_not_start_or_end_at_a_multiple_of_64_is_refused(original: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    stop = LENGTH_BYTES + int.from_bytes(original[:LENGTH_BYTES], "little")
    text = with_checksum(original[LENGTH_BYTES:stop] + b" ")
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + original[stop:])
    with pytest.raises(FormatError, match="data must start at a multiple of 64"):
        open_packed(path)
    short = b'"},"a":{"dtype":"U8","shape":[63],"data_offsets":[0,63]}}'
    path.write_bytes(with_header(PREFIX + b"00000000" + short, bytes(63)))
    with pytest.raises(FormatError, match="length of every array must be a multiple of 64; 'a' takes 63"):
        open_packed(path)


def test_duplicate_keys_are_found_in_time_that_grows_with_the_header(tmp_path: Path) -> None:
    """200,000 keys with the repeated one last: a search of all keys for each would not end."""
    keys = b",".join(b'"%d":0' % i for i in range(200_000)) + b',"199999":0'
    path = tmp_path / "m.safetensors"
    path.write_bytes(with_header(PREFIX + b'00000000"},' + keys + b"}", b""))
    with pytest.raises(FormatError, match="'199999' is there twice"):
        open_packed(path)


def test_a_file_that_is_cut_while_it_is_open_is_an_error_and_not_the_end_of_the_process(original: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(original)
    file = open_packed(path)
    os.truncate(path, 64)
    for step in (lambda: file.qtensor(KEY), file.verify):
        with pytest.raises(FormatError, match=r"m\.safetensors: became shorter since it was opened"):
            step()
