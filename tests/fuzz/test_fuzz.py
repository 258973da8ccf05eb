"""Files made to do harm, by structured changes: refused by an RwkvQuantError or harmless; never a crash, a hang, or too much memory.

`make fuzz` runs the same for as long as one likes; this run is short and without instrumentation (docs/fuzzing.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz import checkpoints, ggufs, packed
from tests.fuzz.choices import Choices, from_bytes, seeded
from tests.fuzz.limits import memory_in_proportion, time_in_bounds

ARCHITECTURES = ("rwkv7", "rwkv6")
PACKED = (*ARCHITECTURES, "vrwkv")
DECISIONS = st.randoms(use_true_random=False).map(lambda generator: Choices(generator.randrange))
bounded = settings(deadline=None, max_examples=80, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(scope="module")
def packed_parts(folder: Path) -> dict[str, packed.Parts]:
    """Used once before anything is measured: the cost of a file must not contain the modules that are imported."""
    files = {arch: packed.base(folder, arch) for arch in PACKED}
    assert [packed.use(folder / f"{arch}.safetensors") for arch in PACKED] == [5, 5, 5]
    return {arch: packed.take_apart(file) for arch, file in files.items()}


@pytest.fixture(scope="module")
def gguf_parts(folder: Path) -> dict[str, ggufs.Parts]:
    """Used once before anything is measured, as those of packed files."""
    parts = {arch: ggufs.base(folder, arch) for arch in ARCHITECTURES}
    for arch, each in parts.items():
        (folder / f"{arch}.gguf").write_bytes(ggufs.put_together(each))
    assert [ggufs.use(folder / f"{arch}.gguf") for arch in ARCHITECTURES] == [3, 3]
    return parts


def use_packed(folder: Path, content: bytes) -> int:
    path = folder / "m.safetensors"
    path.write_bytes(content)
    with memory_in_proportion(len(content)), time_in_bounds():
        return packed.use(path)


def use_checkpoint(folder: Path, content: bytes) -> int:
    path = folder / "m.pth"
    path.write_bytes(content)
    with memory_in_proportion(len(content)), time_in_bounds():
        return checkpoints.use(path)


def use_gguf(folder: Path, content: bytes) -> int:
    path = folder / "m.gguf"
    path.write_bytes(content)
    with memory_in_proportion(len(content)), time_in_bounds():
        return ggufs.use(path)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_unchanged_files_are_used_to_the_end(
    folder: Path, packed_parts: dict[str, packed.Parts], gguf_parts: dict[str, ggufs.Parts], arch: str
) -> None:
    nothing = from_bytes(b"")
    assert use_gguf(folder, ggufs.mutated(gguf_parts[arch], nothing)) == 3
    assert use_packed(folder, packed.mutated(packed_parts[arch], nothing)) == 5
    assert use_checkpoint(folder, checkpoints.mutated_pth(checkpoints.base_pth(arch), nothing)) == 2
    assert use_checkpoint(folder, checkpoints.mutated_safetensors(checkpoints.base_safetensors(arch), nothing)) == 2


@pytest.mark.parametrize("arch", PACKED)
@bounded
@given(choices=DECISIONS)
def test_packed_files(folder: Path, packed_parts: dict[str, packed.Parts], arch: str, choices: Choices) -> None:
    use_packed(folder, packed.mutated(packed_parts[arch], choices))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@bounded
@given(choices=DECISIONS)
def test_pth_files(folder: Path, arch: str, choices: Choices) -> None:
    use_checkpoint(folder, checkpoints.mutated_pth(checkpoints.base_pth(arch), choices))


@bounded
@given(choices=DECISIONS)
def test_safetensors_files(folder: Path, choices: Choices) -> None:
    use_checkpoint(folder, checkpoints.mutated_safetensors(checkpoints.base_safetensors("rwkv7"), choices))


@pytest.mark.parametrize("arch", ARCHITECTURES)
@bounded
@given(choices=DECISIONS)
def test_gguf_files(folder: Path, gguf_parts: dict[str, ggufs.Parts], arch: str, choices: Choices) -> None:
    use_gguf(folder, ggufs.mutated(gguf_parts[arch], choices))


def test_an_unchanged_model_for_images_is_used_to_the_end(folder: Path, packed_parts: dict[str, packed.Parts]) -> None:
    assert use_packed(folder, packed.mutated(packed_parts["vrwkv"], from_bytes(b""))) == 5


def test_the_changes_reach_every_depth(folder: Path, packed_parts: dict[str, packed.Parts], gguf_parts: dict[str, ggufs.Parts]) -> None:
    """Some files are refused at once, some run to the end, and some stop between. Otherwise the tests above would show little."""
    path, pth = folder / "m", checkpoints.base_pth("rwkv6")

    def depth(use: Callable[[Path], int], content: bytes) -> int:
        path.write_bytes(content)
        return use(path)

    reached = [depth(packed.use, packed.mutated(packed_parts["rwkv7"], seeded(seed))) for seed in range(60)]
    assert all(reached.count(depth) > 2 for depth in (0, 4, 5)), reached
    reached = [depth(checkpoints.use, checkpoints.mutated_pth(pth, seeded(seed))) for seed in range(60)]
    assert all(reached.count(depth) > 2 for depth in (0, 2)), reached
    reached = [depth(ggufs.use, ggufs.mutated(gguf_parts["rwkv7"], seeded(seed))) for seed in range(60)]
    assert all(reached.count(depth) > 2 for depth in (0, 2, 3)), reached


def test_memory_out_of_proportion_is_noticed() -> None:
    with pytest.raises(AssertionError, match="took"), memory_in_proportion(1000):
        bytes(2 << 20)
    with pytest.raises(MemoryError), memory_in_proportion(1000):
        bytes(1 << 30)
