from __future__ import annotations

import io
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.serialization import config

from rwkvquant.checkpoints.pth import PthFile
from rwkvquant.errors import CheckpointError
from tests.checkpoints.writers import FLOATS_0_TO_5, push, tensor_index, write_zip
from tests.helpers import random_state_dict

DATA = Path(__file__).parents[1] / "data"
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def save(path: Path, value: object, **options: object) -> Path:
    with warnings.catch_warnings():  # torch warns about pickle protocols other than 2
        warnings.simplefilter("ignore")
        torch.save(value, path, **options)
    return path


def assert_same(path: Path, expected: dict[str, torch.Tensor] | None = None) -> None:
    """`expected` defaults to what torch reads."""
    expected = expected or torch.load(path, map_location="cpu", weights_only=True)
    file = PthFile(path)
    assert list(file.tensors) == list(expected)
    for name, tensor in expected.items():
        assert file.tensors[name].shape == tuple(tensor.shape)
        assert f"torch.{file.tensors[name].dtype}" == str(tensor.dtype)
        values = file.read(name)
        assert values.dtype == np.float32 and values.flags.c_contiguous and values.flags.writeable
        np.testing.assert_array_equal(values, tensor.detach().float().numpy(), err_msg=name)


@pytest.mark.parametrize("name", ["rwkv7-tiny.pth", "rwkv6-8m.pth"])
def test_trained_checkpoints_read_as_torch_reads_them(name: str) -> None:
    assert_same(DATA / name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])
def test_random_checkpoints_read_as_torch_reads_them(tmp_path: Path, arch: str, dtype: torch.dtype) -> None:
    assert_same(save(tmp_path / "a.pth", random_state_dict(arch, width=32, head_size=8, dtype=dtype)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_every_finite_value_of_16_bits_is_read_exactly(tmp_path: Path, dtype: torch.dtype) -> None:
    every = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype)
    assert_same(save(tmp_path / "a.pth", {"x": every[every.isfinite()].clone()}))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_views_of_one_storage_are_read_by_their_strides(tmp_path: Path, dtype: torch.dtype) -> None:
    base = torch.randn(6, 8, 10).to(dtype)
    views = {"whole": base, "transposed": base[2].t(), "thinned": base[1::2, ::3, 4:9], "last": base[5, 7, 9:]}
    views |= {"permuted": base.permute(2, 0, 1), "narrow": base[:, :1, :1]}
    path = save(tmp_path / "a.pth", views)
    assert sum("/data/" in name for name in zipfile.ZipFile(path).namelist()) == 1
    assert_same(path)


def test_parameters_and_module_state_dicts_are_read(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.LayerNorm(5))
    assert_same(save(tmp_path / "a.pth", module.state_dict()))
    assert_same(save(tmp_path / "b.pth", dict(module.named_parameters())))


def test_pickle_protocol_4_is_read(tmp_path: Path) -> None:
    tensors = {"a" * 200: torch.randn(3), "b": torch.randn(2, 2)}
    assert_same(save(tmp_path / "a.pth", tensors, pickle_protocol=4), tensors)  # torch itself refuses this with weights_only


def test_more_tensors_than_one_batch_of_the_pickle_are_read(tmp_path: Path) -> None:
    assert_same(save(tmp_path / "a.pth", {f"t{i}": torch.full((1,), float(i)) for i in range(2500)}))


def test_reading_leaves_the_file_alone(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"x": torch.zeros(4)})
    file = PthFile(path)
    file.read("x")[:] = 7
    assert file.read("x").tolist() == [0, 0, 0, 0]


def test_zip64_records_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 3)  # every size and offset beyond 3 moves to 64-bit fields
    path = write_zip(tmp_path / "a.pth", tensor_index(shape=(2, 3), strides=(3, 1)))
    assert b"PK\x06\x06" in path.read_bytes()
    assert PthFile(path).read("x").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_file_of_more_than_4_gib_is_indexed(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    with torch.serialization.skip_data():  # writes a sparse file, without the data
        torch.save({"large": torch.empty(3 << 30, dtype=torch.float16), "after": torch.empty(2, 3)}, path)
    assert path.stat().st_size > 6 << 30
    tensors = PthFile(path).tensors
    assert [(t.shape, t.dtype) for t in tensors.values()] == [((3 << 30,), "float16"), ((2, 3), "float32")]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_weights_that_are_not_finite_are_named(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    bad = torch.randn(100)
    bad[[3, 77]] = value
    file = PthFile(save(tmp_path / "a.pth", {"good": torch.randn(3).to(dtype), "blocks.1.bad": bad.to(dtype)}))
    file.read("good")
    with pytest.raises(CheckpointError, match=r"finite; blocks\.1\.bad has 2 NaN or infinite"):
        file.read("blocks.1.bad")


def test_altered_data_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = save(tmp_path / "a.pth", {"first": torch.zeros(50), "second": torch.full((50,), 3.0)})
    content = bytearray(path.read_bytes())
    content[content.index(np.full(50, 3.0, np.float32).tobytes()) + 7] ^= 1
    path.write_bytes(content)
    file = PthFile(path)
    file.read("first")
    with pytest.raises(CheckpointError, match=r"altered or damaged \(checksum of a/data/1\)"):
        file.read("second")


@pytest.fixture
def no_checksums() -> Iterator[None]:
    config.save.compute_crc32 = False
    yield
    config.save.compute_crc32 = True


@pytest.mark.usefixtures("no_checksums")
def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    """torch.load reads it too; every member of the zip has 0 for its CRC-32."""
    assert_same(save(tmp_path / "a.pth", {"a": torch.randn(3, 4), "b": torch.zeros(2).half()}))


def test_a_checksum_of_0_in_some_members_only_is_compared(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", tensor_index())
    alter_entry(path, "data/0", crc=0)
    with pytest.raises(CheckpointError, match="altered or damaged"):
        PthFile(path).read("x")


OTHER_DTYPES = [torch.float64, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool, torch.complex64]
OTHER_DTYPES += [torch.float8_e4m3fn, torch.float8_e5m2, torch.uint16]  # these have no typed storage


@pytest.mark.parametrize("dtype", OTHER_DTYPES, ids=str)
def test_other_dtypes_are_refused_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    path = save(tmp_path / "a.pth", {"good": torch.zeros(2), "bad": torch.zeros(2).to(dtype)})
    with pytest.raises(CheckpointError, match=f"bfloat16, float16 or float32; bad is {str(dtype).removeprefix('torch.')}$"):
        PthFile(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"state_dict": {"x": torch.zeros(1)}, "epoch": 3, "loss": 0.5}, "here 'state_dict' is a dict, perhaps the checkpoint"),
        ({"x": torch.zeros(1), "epoch": 3}, "here 'epoch' is a int; save only the tensors"),
        ({"x": [torch.zeros(1)]}, "here 'x' is a list"),
        ({}, "this file holds an empty dict"),
        ([torch.zeros(1)], "this file holds a list"),
        (torch.zeros(1), "this file holds a single tensor"),
        ({3: torch.zeros(1)}, "keys of a dict of tensors are strings; got a int"),
        ({"x\x1b[2J": torch.zeros(1)}, r"name is printable .* got 'x\\x1b\[2J'"),
        ({"x": torch.tensor(1.0)}, "x must have at least one dimension"),
        ({"x": torch.zeros(0, 3)}, "x must have sizes of at least 1"),
        ({"x": torch.zeros(1).expand(1000)}, "every element of x must be inside its storage of 1 elements"),
        ({"x": torch.zeros([1] * 9)}, "by a storage, an offset, a shape and strides"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_anything_but_a_plain_dict_of_tensors_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        PthFile(save(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"offset": 1}, "must be inside its storage"),
        ({"offset": -1}, "at least 0"),
        ({"offset": 2**70}, "outside"),
        ({"offset": "0"}, "by a storage, an offset"),
        ({"offset": True}, "by a storage, an offset"),
        ({"shape": (7,)}, "outside"),
        ({"shape": (-6,)}, "sizes of at least 1"),
        ({"shape": (2**63, 2**63), "strides": (0, 0)}, "outside"),
        ({"shape": (2**1000,)}, "outside"),
        ({"shape": 6}, "by a storage, an offset"),
        ({"shape": (True,)}, "by a storage, an offset"),
        ({"shape": ("6",)}, "by a storage, an offset"),
        ({"strides": (2,)}, "outside"),
        ({"strides": (-1,)}, "at least 0"),
        ({"strides": (2**64,)}, "outside"),
        ({"strides": (1, 1)}, "one stride for each; got 1 and 2"),
        ({"numel": 5}, "must fill its zip member of 24 bytes"),
        ({"numel": 2**62}, "must fill"),
        ({"numel": -6}, "must fill"),
        ({"storage": "torch.HalfStorage"}, "must fill"),
        ({"key": "1"}, "lacks the data of x, the zip member archive/data/1"),
        ({"key": "../data.pkl"}, "lacks the data of x"),
    ],
    ids=str,
)
def test_a_tensor_must_be_inside_its_storage(tmp_path: Path, wrong: dict, message: str) -> None:
    assert PthFile(write_zip(tmp_path / "good.pth", tensor_index())).read("x").tolist() == [0, 1, 2, 3, 4, 5]
    with pytest.raises(CheckpointError, match=message):
        PthFile(write_zip(tmp_path / "bad.pth", tensor_index(**wrong)))


def test_every_view_inside_a_storage_is_read_and_every_other_refused(tmp_path: Path) -> None:
    storage = np.arange(6, dtype=np.float32)
    for offset in range(7):
        for length in range(1, 8):
            for stride in range(4):
                path = write_zip(tmp_path / "a.pth", tensor_index(offset=offset, shape=(length,), strides=(stride,)))
                indices = offset + stride * np.arange(length)
                if indices.max() < 6 and length <= 6:
                    assert PthFile(path).read("x").tolist() == storage[indices].tolist()
                else:
                    with pytest.raises(CheckpointError, match="outside"):
                        PthFile(path)


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="must be little-endian"):
        PthFile(write_zip(tmp_path / "a.pth", tensor_index(), byteorder=b"big"))


def test_a_name_given_twice_is_refused(tmp_path: Path) -> None:
    one = tensor_index()
    item = one[3:-2]  # between the empty dict and SETITEM STOP
    with pytest.raises(CheckpointError, match="names x twice"):
        PthFile(write_zip(tmp_path / "a.pth", one[:3] + item + b"s" + item + b"s."))


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(CheckpointError, match=r"must hold one data\.pkl"):
        PthFile(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.pth", "w") as archive:
        archive.writestr("archive/data.pkl", tensor_index())
        archive.writestr("elsewhere/data/0", FLOATS_0_TO_5)
    with pytest.raises(CheckpointError, match="one folder, 'archive'; got 'elsewhere/data/0'"):
        PthFile(tmp_path / "b.pth")


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", tensor_index())
        archive.writestr("archive/data/0", FLOATS_0_TO_5)
    with pytest.raises(CheckpointError, match=r"'archive/data\.pkl' is compressed or encrypted"):
        PthFile(tmp_path / "a.pth")


def test_two_members_with_one_name_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("archive/data.pkl", tensor_index())
        archive.writestr("archive/data.pkl", tensor_index())
    with pytest.raises(CheckpointError, match=r"two members named 'archive/data\.pkl'"):
        PthFile(tmp_path / "a.pth")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """A whole zip member hidden in the data of another: two names for the same bytes."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("archive/hidden", b"1234")
    hidden = inner.getvalue()[: inner.getvalue().index(b"PK\x01\x02")]
    path = tmp_path / "a.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", tensor_index())
        archive.writestr("archive/data/0", hidden)
        entry = zipfile.ZipInfo("archive/hidden")
        entry.file_size = entry.compress_size = 4
        entry.CRC, entry.header_offset = 0, archive.fp.tell() - len(hidden)
        archive.filelist.append(entry)
        archive.NameToInfo[entry.filename] = entry
    with pytest.raises(CheckpointError, match="'archive/data/0' and 'archive/hidden' overlap"):
        PthFile(path)


def alter_entry(path: Path, name: str, **fields: int) -> None:
    """Overwrite fields in the directory entry of one member, at the places that APPNOTE.TXT 4.3.12 gives."""
    places = {"method": (10, "<H"), "crc": (16, "<I"), "packed_size": (20, "<I"), "size": (24, "<I")}
    content = bytearray(path.read_bytes())
    entry = content.rindex(f"archive/{name}".encode()) - 46
    for field, value in fields.items():
        struct.pack_into(places[field][1], content, entry + places[field][0], value)
    path.write_bytes(content)


def test_a_member_that_only_the_directory_calls_compressed_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", tensor_index())
    alter_entry(path, "data/0", method=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="'archive/data/0' is compressed or encrypted"):
        PthFile(path)


@pytest.mark.parametrize("size", [28, 400, 2**20])
def test_a_member_that_reaches_past_the_data_is_refused(tmp_path: Path, size: int) -> None:
    """The checksum and the number of elements are right; only the bounds of the member are wrong."""
    path = write_zip(tmp_path / "a.pth", tensor_index(numel=size // 4))
    content = path.read_bytes()
    start = content.index(FLOATS_0_TO_5)
    alter_entry(path, "data/0", size=size, packed_size=size, crc=zlib.crc32(content[start : start + size]))
    with pytest.raises(CheckpointError, match="'archive/data/0' reaches past the data"):
        PthFile(path)


@pytest.mark.parametrize("name", ["data.pkl", "data/0"])
@pytest.mark.parametrize("place", [0, 8, 30 + 9], ids=["signature", "method", "name"])
def test_a_directory_that_contradicts_a_local_header_is_refused(tmp_path: Path, name: str, place: int) -> None:
    path = write_zip(tmp_path / "a.pth", tensor_index())
    content = bytearray(path.read_bytes())
    content[content.index(b"archive/" + name.encode()) - 30 + place] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"local header of the zip member 'archive/{name}' contradicts"):
        PthFile(path)


@pytest.mark.parametrize("count", [0, 2, 4, 65535])
def test_a_directory_that_miscounts_itself_is_refused(tmp_path: Path, count: int) -> None:
    path = write_zip(tmp_path / "a.pth", tensor_index())
    content = bytearray(path.read_bytes())
    struct.pack_into("<HH", content, len(content) - 14, count, count)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"promises {count} members and holds 3"):
        PthFile(path)


def test_an_index_too_large_to_be_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="may have at most 16 MB"):
        PthFile(write_zip(tmp_path / "a.pth", b"\x80\x02}" + push("x" * (17 << 20)) + b"."))


def test_a_huge_stride_of_an_axis_of_length_1_is_not_used(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pth", tensor_index(shape=(1, 1, 6), strides=(2**62, 2**62, 1)))
    np.testing.assert_array_equal(PthFile(path).read("x").ravel(), np.arange(6, dtype=np.float32))
