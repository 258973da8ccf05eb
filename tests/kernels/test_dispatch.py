"""Which body runs, and that all bodies give the same result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.errors import ConfigError
from rwkvquant.kernels import dispatch
from tests.kernels.guarded import body

PROGRAM = """
import numpy as np
from rwkvquant.codecs import PackedTensor, Packing
from rwkvquant.codecs.native import product
from rwkvquant.kernels import dispatch, tiles
rng = np.random.default_rng(0)
codes = rng.integers(0, 8, (50, 200), dtype=np.uint8)
scales, zeros = rng.integers(0, 256, (50, 4), dtype=np.uint8), rng.integers(0, 8, (50, 4), dtype=np.uint8)
row_scale, books = tiles.pack_row_scale(rng.random(50).astype(np.float16)), rng.integers(0, 128, (25, 7, 8), dtype=np.uint8)
grid = {"codes": tiles.pack_tiles(codes, 3, 64), "scales": tiles.pack_scales(scales), "zeros": tiles.pack_zeros(zeros, 3)}
tables = {"codes": tiles.pack_tiles(codes, 3, 32), "codebooks": tiles.pack_codebooks(books)}
x = rng.standard_normal((2, 200)).astype(np.float32)
grids = Packing("uniform3.t16x64", (50, 200), {"group_size": 64, "symmetric": False, "scale_bits": 8})
uniform = product(PackedTensor(grids, {**grid, "row_scale": row_scale}), x)
books = Packing("codebook3.t16x32", (50, 200), {"group_rows": 2, "rank": 0, "shift": 0})
codebook = product(PackedTensor(books, {**tables, "row_scale": row_scale}), x)
print(dispatch.backend(), uniform.tobytes().hex(), codebook.tobytes().hex())
"""


def run(program: str = PROGRAM, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RWKVQUANT_")}
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, env={**kept, "PYTHONPATH": path, **environment}, capture_output=True, text=True, check=False)


@pytest.fixture
def unread_environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment is read again at the first call in the test, and at the first one after it."""
    before = _native.isa()
    dispatch.native_module.cache_clear()
    yield monkeypatch
    monkeypatch.undo()
    dispatch.native_module.cache_clear()
    _native.set_isa(before)


def test_every_instruction_set_of_this_cpu_is_available() -> None:
    available = _native.available_isas()
    assert available[0] == "plain"
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((set(line.split(":", 1)[1].split()) for line in lines if line.startswith(("flags", "Features"))), set())
    assert ("avx2" in available) == ({"avx2", "f16c", "fma"} <= flags)
    assert ("avxvnni" in available) == ({"avx2", "avx_vnni"} <= flags)
    assert ("avx512" in available) == ({"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"} <= flags)
    assert ("neon" in available) == ("asimddp" in flags)
    assert ("i8mm" in available) == ({"asimddp", "i8mm"} <= flags)


def test_the_best_body_runs_unless_another_is_named() -> None:
    assert run().stdout.split()[0] == _native.available_isas()[-1]


def test_every_body_gives_the_same_bits_and_so_does_the_reference() -> None:
    reference = run(RWKVQUANT_KERNELS="reference")
    name, *want = reference.stdout.split()
    assert name == "reference" and len(want) == 2
    for isa in _native.available_isas():
        forced = run(RWKVQUANT_ISA=isa)
        assert forced.stdout.split() == [isa, *want], forced.stderr


def test_an_instruction_set_this_cpu_lacks_is_refused_in_one_sentence(unread_environment: pytest.MonkeyPatch) -> None:
    unread_environment.setenv("RWKVQUANT_ISA", "neon512")
    with pytest.raises(ConfigError, match=r'RWKVQUANT_ISA: this CPU and build cannot run "neon512"; available: plain'):
        dispatch.backend()


def test_a_misspelt_choice_of_kernels_is_refused(unread_environment: pytest.MonkeyPatch) -> None:
    unread_environment.setenv("RWKVQUANT_KERNELS", "refrence")
    with pytest.raises(ConfigError, match="RWKVQUANT_KERNELS must be native or reference; got refrence"):
        dispatch.backend()


def test_without_the_native_module_numpy_takes_over_and_says_so(unread_environment: pytest.MonkeyPatch) -> None:
    import rwkvquant

    unread_environment.setitem(sys.modules, "rwkvquant._native", None)
    unread_environment.delattr(rwkvquant, "_native")
    with pytest.warns(UserWarning, match="rwkvquant runs on NumPy alone"):
        assert dispatch.backend() == "reference"


def test_a_named_instruction_set_without_the_native_module_is_an_error(unread_environment: pytest.MonkeyPatch) -> None:
    import rwkvquant

    unread_environment.setitem(sys.modules, "rwkvquant._native", None)
    unread_environment.delattr(rwkvquant, "_native")
    unread_environment.setenv("RWKVQUANT_ISA", "plain")
    with pytest.raises(ConfigError, match="RWKVQUANT_ISA=plain needs the native module"):
        dispatch.backend()


@pytest.mark.parametrize("ahead", [0, 4096])
@pytest.mark.parametrize("isa", _native.available_isas())
def test_the_read_loop_reads_every_byte(isa: str, ahead: int) -> None:
    for count in (0, 256, 256 * 37):
        memory = np.random.default_rng(count).integers(0, 256, count, dtype=np.uint8)
        with body(isa):
            assert _native.read_memory(memory, ahead) == np.bitwise_xor.reduce(memory.view(np.uint64), initial=0)


def test_a_memory_the_read_loop_would_overrun_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[read_memory\] memory must be a multiple of 256 bytes; got 255"):
        _native.read_memory(np.zeros(255, np.uint8), 0)


@pytest.mark.parametrize("rounds", [0, 1, 1025])
@pytest.mark.parametrize("isa", _native.available_isas())
def test_the_loop_that_measures_arithmetic_makes_every_product(isa: str, rounds: int) -> None:
    rng = np.random.default_rng(rounds)
    a, q = rng.integers(0, 128, (2, 16, 16, 4), dtype=np.uint8), rng.integers(-128, 128, (8, 64), dtype=np.int8)
    rows = a.transpose(0, 2, 1, 3).reshape(32, 64).astype(np.int64)
    with body(isa):
        assert _native.dot_bytes(a.reshape(-1), q.reshape(-1), rounds) == rounds * int((rows @ q.T.astype(np.int64)).sum()) % 2**32
        extremes = np.full(2048, 127, np.uint8), np.full(512, -128, np.int8)
        assert _native.dot_bytes(*extremes, rounds) == rounds * 16384 * 127 * -128 % 2**32


def test_bytes_that_could_saturate_and_short_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[dot_bytes\] a must be below 128"):
        _native.dot_bytes(np.full(2048, 128, np.uint8), np.zeros(512, np.int8), 1)
    with pytest.raises(ValueError, match=r"\[dot_bytes\] q must hold 512 values; got 511"):
        _native.dot_bytes(np.zeros(2048, np.uint8), np.zeros(511, np.int8), 1)
