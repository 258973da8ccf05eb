"""A file that is copied into huge pages gives what the mapped file gives, needs no more memory, and does not depend on the file later."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import system
from rwkvquant.architectures import Dims
from rwkvquant.bench.measure import state_bytes, warning
from rwkvquant.bench.random_model import planned, write_model
from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.formats import pages
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.session import load
from tests.helpers import random_state_dict, write_pth

PACKED = Path(__file__).parents[2] / "src/rwkvquant/assets/rwkv7-8m-3.275bpw.safetensors"
TOKENS = [0, 7, 300, 12]
PEAK = """
import sys
from rwkvquant.runtime.session import load
model = load(sys.argv[1], threads=1, pages=sys.argv[2])
model.forward([1, 2, 3])
print(model.held.pages, *[line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")])
"""


@pytest.fixture
def huge() -> None:
    if why := system.why_no_huge_pages():
        pytest.skip(f"needs huge pages: {why}")


def little_memory(monkeypatch: pytest.MonkeyPatch, free: int | None) -> None:
    monkeypatch.setattr("rwkvquant.system.free_memory", lambda: free)


def test_logits_are_the_same_bits_mapped_and_copied(huge: None) -> None:
    models = {how: load(PACKED, threads=1, pages=how) for how in pages.PAGES}
    expected, _ = models["map"].forward(TOKENS, logits="all")
    for how, model in models.items():
        np.testing.assert_array_equal(model.forward(TOKENS, logits="all")[0], expected)
        assert model.held is not None and model.held.pages == ("map" if how == "map" else "huge")


def test_a_copy_has_every_byte_of_the_file_and_begins_at_a_huge_page(huge: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it has many pieces, and if the system gives fewer bytes than were asked for."""
    monkeypatch.setattr(pages, "PIECE", 1 << 12)
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda handle, buffers, at: real(handle, [buffers[0][:1000]], at))
    for size in (1, 4096, 3 * 4096 + 5, (2 << 20) + 1):
        data = np.random.default_rng(size).bytes(size)
        (tmp_path / "data").write_bytes(data)
        copied = pages.hold(tmp_path / "data", "huge")
        assert copied.data == data and copied.data.readonly
        assert np.frombuffer(copied.data, np.uint8).ctypes.data % system.huge_page_size() == 0


def test_a_copy_is_in_huge_pages(huge: None, tmp_path: Path) -> None:
    """All of it, unless the machine's memory is in pieces; but at least some."""
    (tmp_path / "data").write_bytes(bytes(8 << 20))
    held = pages.hold(tmp_path / "data", "huge").held()
    assert held.resident_bytes == held.file_bytes == 8 << 20
    assert held.huge_bytes and "% in huge pages" in str(held)


def test_arrays_outlive_the_copy_they_are_in(huge: None) -> None:
    array = open_packed(PACKED, "huge").arrays("emb.weight")["codes"]
    assert not array.flags.writeable
    np.testing.assert_array_equal(array, open_packed(PACKED).arrays("emb.weight")["codes"])


def test_a_file_that_is_cut_later_does_not_matter_to_a_copy(huge: None, tmp_path: Path) -> None:
    shutil.copy(PACKED, tmp_path / "live.safetensors")
    model, packed = load(tmp_path / "live.safetensors", threads=1, pages="huge"), open_packed(tmp_path / "live.safetensors", "huge")
    expected, _ = model.forward(TOKENS)
    os.truncate(tmp_path / "live.safetensors", 10_000)
    np.testing.assert_array_equal(model.forward(TOKENS)[0], expected)
    assert model.generate("The", max_tokens=2).tokens
    packed.arrays("emb.weight")


def test_a_file_that_is_cut_while_it_is_copied_is_refused(huge: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(PACKED, tmp_path / "live.safetensors")
    monkeypatch.setattr(pages, "PIECE", 1 << 20)
    real = pages.huge_memory

    def cut(size: int) -> memoryview:
        os.truncate(tmp_path / "live.safetensors", 1_500_000)
        return real(size)

    monkeypatch.setattr(pages, "huge_memory", cut)
    with pytest.raises(FormatError, match=r"live\.safetensors: became shorter while it was read"):
        open_packed(tmp_path / "live.safetensors", "huge")


def test_a_damaged_file_is_refused_in_the_same_words(huge: None, tmp_path: Path) -> None:
    damaged = bytearray(PACKED.read_bytes())
    (tmp_path / "short").write_bytes(damaged[:-64])
    (tmp_path / "empty").write_bytes(b"")
    damaged[-1000] ^= 1
    (tmp_path / "altered").write_bytes(damaged)
    for name in ("short", "empty", "altered", "missing"):
        said = []
        for how in ("map", "huge"):
            with pytest.raises(FormatError) as caught:
                open_packed(tmp_path / name, how).verify()
            said.append(str(caught.value))
        assert said[0] == said[1] and name in said[0]


def test_with_too_little_free_memory_auto_maps_and_says_why(huge: None, monkeypatch: pytest.MonkeyPatch) -> None:
    size = PACKED.stat().st_size
    needed = size + size // 10 + pages.SPARE
    for free, how in ((needed - 1, "map"), (needed, "huge"), (None, "huge")):
        little_memory(monkeypatch, free)
        held = load(PACKED, threads=1).held
        assert held is not None and held.pages == how
    little_memory(monkeypatch, 100 << 20)
    assert "not copied, because 51" in str(load(PACKED, threads=1).held)


def test_a_request_for_huge_pages_that_cannot_be_met_is_one_sentence(
    huge: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    command = ["generate", str(PACKED), "-p", "a", "-n", "1", "--pages", "huge"]
    with monkeypatch.context() as patch:
        little_memory(patch, 100 << 20)
        assert run(command) == 2
        assert "MiB of memory should be free, and 100 are. Try --pages map" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("rwkvquant.system.why_no_huge_pages", lambda: "only Linux has them")
        assert run(command) == 2
        assert "cannot be copied into huge pages: only Linux has them." in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr("rwkvquant.formats.pages.mmap.mmap", refuse)
        assert run(command) == 2
        assert "the system refuses so much memory" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        real = pages.mmap.mmap
        patch.setattr(
            "rwkvquant.formats.pages.mmap.mmap", lambda handle, *rest, **options: refuse() if handle < 0 else real(handle, *rest, **options)
        )
        held = load(PACKED, threads=1).held
        assert held is not None and str(held).endswith("not copied, because the system refuses so much memory")


def test_pages_that_do_not_exist_are_refused_by_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["generate", str(PACKED), "-p", "a"], ["chat", str(PACKED)], ["bench", str(PACKED)]):
        assert run([*command, "--pages", "hug"]) == 2
        assert "pages must be one of auto, huge, map; got hug" in capsys.readouterr().err
    checkpoint = write_pth(tmp_path / "m.pth", random_state_dict("rwkv7"))
    assert load(checkpoint).held is None
    for how in ("huge", "map", "hug"):
        with pytest.raises(ConfigError, match=f"pages must be auto for a checkpoint.*got {how}"):
            load(checkpoint, pages=how)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in 16 bits, large enough that a second copy in memory would be seen."""
    dims = Dims(4, 1024, 4096, 16384, 16, 64, {"Rw": 64, "Ra": 64, "Rv": 32, "Rg": 128})
    plan = {name: packing for name, _, packing in planned("rwkv7", dims, layouts="dense")}
    path = tmp_path_factory.mktemp("large") / "m.safetensors"
    write_model(path, "rwkv7", dims, lambda name, spec, shape: plan[name])
    return path


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.parametrize("how", ["map", "huge"])
def test_peak_memory_is_the_file_the_state_a_tenth_and_60_mb(request: pytest.FixtureRequest, large: Path, how: str) -> None:
    """In a process of its own, whose peak does not begin with that of the tests."""
    if how == "huge":
        request.getfixturevalue("huge")  # a mapped file needs none
    packed = open_packed(large)
    done = subprocess.run([sys.executable, "-c", PEAK, str(large), how], capture_output=True, text=True, check=True)
    used, peak = done.stdout.split()
    assert used == how
    assert packed.file_bytes > 150e6
    assert 1024 * int(peak) <= 1.1 * (packed.file_bytes + state_bytes(packed.architecture, packed.dims)) + (60 << 20)


def test_bench_says_which_pages_were_used(huge: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rwkvquant.bench.measure.SECONDS", 0.01)
    monkeypatch.setattr("rwkvquant.bench.roofline.BYTES", 1 << 24)
    for how in ("huge", "map"):
        assert run(["bench", str(PACKED), "--json", "--rounds", "1", "--prefill", "9", "--threads", "1", "--pages", how]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result["pages"] == how and (result["mapped_share"] is not None) == (how == "map")
        assert result["pages_line"].startswith("copied" if how == "huge" else "mapped")


def test_bench_warns_of_a_mapped_file_that_is_read_slowly_and_says_what_to_do() -> None:
    assert warning({"mapped_share": None}) is None and warning({"mapped_share": 0.95}) is None
    assert "read at 40 %" in str(warning({"mapped_share": 0.4})) and "--pages huge" in str(warning({"mapped_share": 0.4}))
