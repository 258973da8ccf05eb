"""A packed file appears complete or not at all, gives back what was written, and notices every changed byte."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors

from rwkvquant.codecs import CodebookTensor, DenseTensor, PackedTensor
from rwkvquant.errors import ConfigError, FormatError, RwkvQuantError
from rwkvquant.formats import disk, reader
from rwkvquant.formats.container import ContainerWriter, check_output, open_packed
from tests.formats import examples
from tests.formats.examples import DIMS, TOKENIZER, write_model
from tests.formats.test_layout import assert_same


@pytest.fixture
def packed_path(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m.safetensors")


def test_everything_comes_back(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    assert (packed.arch, packed.dims) == ("rwkv7", DIMS)
    assert packed.quantization_config["quant_method"] == "rwkvquant" and packed.quantization_config["bits"] == 3
    assert packed.provenance["source_sha256"] == "00" * 32 and packed.provenance["package"] == "rwkv-hybridquant"
    assert packed.tokenizer.kind == "bpe" and packed.tokenizer.meta == {"special_tokens": {}}
    for suffix, array in TOKENIZER.arrays.items():
        assert np.array_equal(packed.tokenizer.arrays[suffix], array)
    assert packed.tokenizer.arrays.keys() == TOKENIZER.arrays.keys()
    entry = packed.tensors["blocks.1.att.w1"]
    assert (entry.shape, entry.source_shape, entry.transposed, entry.role, entry.method) == ((8, 32), (32, 8), True, "lora", "rtn")
    assert packed.tensors["blocks.0.att.receptance.weight"].extra == {"error": 0.25}
    packed.verify()


def test_every_tensor_is_the_one_that_was_added(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = tmp_path / "m.safetensors"
    tensors = {f"blocks.{i}.att.{name}.weight": examples.codebook(rng, (32, 32)) for i in (0, 1) for name in ("value", "output")}
    with ContainerWriter(path) as out:
        examples.add_model(out)
        for name, tensor in tensors.items():
            out.add(name, tensor, role="projection", method="kmeans")
        examples.finish(out)
    packed = open_packed(path)
    for name, tensor in tensors.items():
        assert_same(packed.qtensor(name), tensor)


def test_arrays_are_views_of_the_file_at_multiples_of_64(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    for name in packed.tensors:
        for array in packed.arrays(name).values():
            assert not array.flags.owndata and not array.flags.writeable
            assert array.ctypes.data % 64 == 0 and array.nbytes % 64 == 0


def test_the_safetensors_library_reads_the_same_arrays(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    with safetensors.safe_open(packed_path, framework="np") as file:
        assert file.metadata()["format"] == "rwkvquant"
        names = set(file.keys())
        for name in packed.tensors:
            for suffix, array in packed.arrays(name).items():
                assert np.array_equal(file.get_tensor(f"{name}.{suffix}"), array)
                names.remove(f"{name}.{suffix}")
        assert names == {f"tokenizer.{suffix}" for suffix in TOKENIZER.arrays}


def test_the_same_input_gives_the_same_bytes(packed_path: Path, tmp_path: Path) -> None:
    assert write_model(tmp_path / "again.safetensors").read_bytes() == packed_path.read_bytes()


def test_a_flipped_bit_in_any_array_is_found_by_verify_and_never_crashes(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    start, original = packed._header.data_start, packed_path.read_bytes()
    rng = np.random.default_rng(7)
    for name, stored in packed._header.arrays.items():
        for at in rng.integers(stored.begin, stored.end, 3) if stored.count else ():
            damaged = bytearray(original)
            damaged[start + at] ^= 1 << int(rng.integers(8))
            packed_path.write_bytes(damaged)
            if name.startswith("tokenizer."):
                with pytest.raises(FormatError, match="checksum of tokenizer"):
                    open_packed(packed_path)
                continue
            tensor_name, _, suffix = name.rpartition(".")
            reopened = open_packed(packed_path)
            try:
                assert reopened.qtensor(tensor_name).decode().shape == reopened.tensors[tensor_name].shape
            except FormatError as error:  # where other arrays begin depends on these
                assert suffix == "widths" and "widths of a sections.r512 tensor must be 2, 3, 4 or 6" in str(error)
            with pytest.raises(FormatError, match=f"checksum of {tensor_name} {suffix} does not match"):
                reopened.verify()


def test_a_flipped_bit_anywhere_in_the_header_is_refused_when_the_file_is_opened(packed_path: Path) -> None:
    original = packed_path.read_bytes()
    start = open_packed(packed_path)._header.data_start
    for at in [*range(60), *range(60, start, 97), start - 1]:
        damaged = bytearray(original)
        damaged[at] ^= 1 << at % 8
        packed_path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"m\.safetensors: "):
            open_packed(packed_path)


def test_a_truncated_or_lengthened_file_is_refused(packed_path: Path) -> None:
    original = packed_path.read_bytes()
    for size in (0, 1, 7, 8, 40, 64, 1000, len(original) - 64, len(original) - 1):
        packed_path.write_bytes(original[:size])
        with pytest.raises(FormatError):
            open_packed(packed_path)
    packed_path.write_bytes(original + bytes(64))
    with pytest.raises(FormatError, match="64 bytes after the last array belong to nothing"):
        open_packed(packed_path)


def test_a_path_that_is_not_a_packed_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="No such file"):
        open_packed(tmp_path / "missing")
    with pytest.raises(FormatError, match="is not a file"):
        open_packed(tmp_path)
    other = tmp_path / "other.safetensors"
    from safetensors.numpy import save_file

    save_file({"weight": np.zeros((64, 64), np.float32)}, other)
    with pytest.raises(FormatError, match="not a packed file of rwkvquant"):
        open_packed(other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["values", "row_scale"])
def test_the_message_for_a_number_that_is_not_finite_names_the_tensor(tmp_path: Path, kind: str, value: float) -> None:
    path, bad = tmp_path / "m.safetensors", "blocks.1.att.bad"
    tensor = DenseTensor(np.full((1, 32), value, np.float16))
    with ContainerWriter(path) as out:
        examples.add_model(out)
        if kind == "values":
            out.add(bad, tensor, role="norm", method="dense")
        else:
            book = examples.codebook(np.random.default_rng(0), (32, 32))
            out.add(bad, dataclasses.replace(book, row_scale=np.full(32, value, np.float16)), role="projection", method="kmeans")
        with pytest.raises(FormatError, match=f"{kind} of {bad} must be finite"):
            examples.finish(out)
    assert os.listdir(tmp_path) == []


def test_centroids_and_zeros_out_of_range_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Values that our packing refuses, as another writer might store them."""
    real = PackedTensor.pack.__func__

    def tampered(suffix: str):
        def pack(kind, *arguments):
            packed = real(kind, *arguments)
            if suffix in packed.arrays and packed.layout in ("codebook3.t16x32", "uniform3.rows"):
                packed.arrays[suffix][0] = 200
            return packed

        return classmethod(pack)

    for suffix, message in (("codebooks", "centroids of .* must be 0 to 127"), ("zeros", "zeros of blocks.0.zeros must fit in 3 bits")):
        monkeypatch.setattr(PackedTensor, "pack", tampered(suffix))
        with ContainerWriter(tmp_path / "m.safetensors") as out:
            examples.add_model(out)
            vector = examples.uniform(np.random.default_rng(0), (1, 32), examples.GridConfig(3, 64))
            out.add("blocks.0.zeros", vector, role="elementwise", method="rtn", layout="uniform3.rows")
            with pytest.raises(FormatError, match=message):
                examples.finish(out)


def failing_write(monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException) -> list[int]:
    """Let the write number `at` fail half-way; returns the number of writes so far."""
    real, count = disk.write_all, [0]

    def write(file, data) -> None:
        count[0] += 1
        if count[0] == at:
            real(file, memoryview(data)[: len(data) // 2])
            raise error
        real(file, data)

    monkeypatch.setattr(disk, "write_all", write)
    return count


def test_a_full_disk_at_any_write_leaves_nothing_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        count = failing_write(patch, -1, OSError())
        write_model(tmp_path / "m.safetensors")
    (tmp_path / "m.safetensors").unlink()
    assert count[0] > 40
    for at in [*range(1, count[0], 9), count[0] - 2, count[0] - 1, count[0]]:
        with monkeypatch.context() as patch, pytest.raises(RwkvQuantError, match=r"m\.safetensors could not be written: the disk is full"):
            failing_write(patch, at, OSError(errno.ENOSPC, "No space left on device"))
            write_model(tmp_path / "m.safetensors")
        assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("no"), OSError(errno.EIO, "Input/output error")])
@pytest.mark.parametrize("step", ["write_all", "os.replace", "os.fsync", "verify"])
def test_any_failure_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> None:
    path = tmp_path / "m.safetensors"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise error

    with ContainerWriter(path) as out:
        examples.add_model(out)
        if step == "verify":
            monkeypatch.setattr(reader.PackedFile, "verify", fail)
        elif step.startswith("os."):
            monkeypatch.setattr(os, step[3:], fail)
        else:
            monkeypatch.setattr(disk, step, fail)
        expected = RwkvQuantError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected):
            examples.finish(out)
    assert os.listdir(tmp_path) == ["m.safetensors"]
    assert path.read_bytes() == b"old"


def test_nothing_is_visible_before_finish(tmp_path: Path) -> None:
    with ContainerWriter(tmp_path / "m.safetensors") as out:
        examples.add_model(out)
        assert os.listdir(tmp_path) == []
    assert os.listdir(tmp_path) == []


def test_what_was_written_is_read_back_before_it_gets_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = disk.write_all

    def damage(file, data) -> None:
        real(file, bytes(data)[:-1] + b"\x99" if len(data) > 2000 and bytes(data[:2]) != b"{" else data)

    with ContainerWriter(tmp_path / "m.safetensors") as out:
        examples.add_model(out)
        monkeypatch.setattr(disk, "write_all", damage)
        with pytest.raises(FormatError, match="checksum"):
            examples.finish(out)
    assert os.listdir(tmp_path) == []


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is a directory\. Try"):
        check_output(tmp_path)
    with pytest.raises(ConfigError, match=r"must exist; .*missing does not"):
        ContainerWriter(tmp_path / "missing" / "m.safetensors")
    with pytest.raises(ConfigError, match=r"puts the home folder for ~.*Try: -o ~/m\.safetensors"):
        check_output("~/m.safetensors")
    with pytest.raises(ConfigError, match="device or a pipe"):
        check_output("/dev/null")
    check_output(tmp_path / "m.safetensors")


def test_what_cannot_be_stored_is_refused_when_it_is_added(tmp_path: Path) -> None:
    tensor = DenseTensor(np.zeros((4, 8), np.float16))
    with ContainerWriter(tmp_path / "m.safetensors") as out:
        out.add("a", tensor, role="norm", method="dense")
        with pytest.raises(FormatError, match="a was added twice"):
            out.add("a", tensor, role="norm", method="dense")
        with pytest.raises(FormatError, match="tokenizer"):
            out.add("tokenizer.table", tensor, role="norm", method="dense")
        with pytest.raises(FormatError, match="role of 'b' must be one of projection"):
            out.add("b", tensor, role="weight", method="dense")
        with pytest.raises(FormatError, match="source_shape of 'b' must have 32 elements"):
            out.add("b", tensor, role="norm", method="dense", source_shape=(4, 9))
        with pytest.raises(FormatError, match="does not hold this tensor"):
            book = CodebookTensor(np.zeros((2, 32), np.uint8), 4, np.zeros((1, 1, 16), np.uint8), np.zeros(2, np.float16))
            out.add("b", book, role="projection", method="kmeans", layout="codebook3.t16x32")
        with pytest.raises(ValueError, match="not JSON compliant"):
            out.add("b", tensor, role="norm", method="dense", error=float("nan"))


def test_tensors_that_contradict_the_sizes_are_refused(tmp_path: Path) -> None:
    for change in ({"layers": 3}, {"width": 64, "heads": 4}, {"vocab": 47}, {"hidden": 32}, {"heads": 3}, {"head_size": 32}):
        with ContainerWriter(tmp_path / "m.safetensors") as out:
            examples.add_model(out)
            with pytest.raises(FormatError, match=r"dims|heads x head_size"):
                examples.finish(out, dims=dataclasses.replace(DIMS, **change))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("role", "shape"),
    [("projection", (32, 33)), ("lora", (8, 31)), ("elementwise", (1, 31)), ("norm", (33,)), ("bias", (2, 17)), ("state", (2, 16, 15))],
)
def test_a_tensor_of_another_size_than_its_role_has_is_refused(tmp_path: Path, role: str, shape: tuple[int, ...]) -> None:
    with ContainerWriter(tmp_path / "m.safetensors") as out:
        examples.add_model(out)
        out.add("blocks.1.odd", examples.dense(np.random.default_rng(0), shape), role=role, method="dense")
        with pytest.raises(FormatError, match=r"blocks\.1\.odd must have the shape .* by the model's dims"):
            examples.finish(out)


def test_a_tuned_state_is_stored(tmp_path: Path) -> None:
    path, state = tmp_path / "m.safetensors", examples.dense(np.random.default_rng(0), (2, 16, 16), np.float32)
    with ContainerWriter(path) as out:
        examples.add_model(out)
        out.add("blocks.1.att.time_state", state, role="state", method="dense")
        examples.finish(out)
    assert_same(open_packed(path).qtensor("blocks.1.att.time_state"), state)


def test_verify_asks_the_safetensors_library_too(packed_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise safetensors.SafetensorError("not for me")

    monkeypatch.setattr(safetensors, "safe_open", refuse)
    with pytest.raises(FormatError, match="the safetensors library refuses the file: not for me"):
        open_packed(packed_path).verify()


def test_a_missing_tensor_is_named(packed_path: Path) -> None:
    with pytest.raises(FormatError, match=r"has no tensor blocks\.9\.att\.key\.weight"):
        open_packed(packed_path).qtensor("blocks.9.att.key.weight")


def test_a_name_too_long_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="200 bytes; got 251"):
        check_output(tmp_path / ("x" * 251))
