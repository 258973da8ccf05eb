"""Whatever numbers and arrays the native engine is told, it refuses them or runs: `make sanitize` watches every byte of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rwkvquant import _native
from rwkvquant.architectures import ARCHITECTURES, Dims, Role, TensorSpec
from rwkvquant.bench.layouts import codebook, pairs
from rwkvquant.bench.random_model import default_side, write_model
from rwkvquant.codecs import DenseConfig, GridConfig, Packing
from rwkvquant.formats.container import open_packed
from rwkvquant.runtime.engines import native as engine
from rwkvquant.runtime.weights import packed_weights

DIMS = {
    "rwkv7": Dims(1, 48, 80, 40, 3, 16, {"Rw": 8, "Ra": 8, "Rv": 8, "Rg": 8}),
    "rwkv6": Dims(1, 48, 80, 40, 3, 16, {"Rm": 8, "Rd": 8}),
}
REFUSED = (ValueError, TypeError, OverflowError, RuntimeError, MemoryError)
NUMBERS = [0, 1, 16, 17, 2**16, 2**20 + 64, 2**31, 2**32 + 8, 2**40, 2**63, 2**64 - 64, 2**64 - 16, 2**64 - 1, 2**64, -1]
READ = {  # the numbers that count, by codec
    "uniform": ("bits", "rows", "cols", "tile_cols", "group_size", "symmetric", "scale_bits"),
    "codebook": ("bits", "rows", "cols", "group_rows", "rank", "shift"),
    "pairs": ("bits", "rows", "cols", "group_rows"),
    "dense": ("bits", "rows", "cols"),
    "rows": ("bits", "rows", "cols", "group_size", "symmetric", "scale_bits"),
}
WANTED = re.compile(r"\] (\w+) must hold (\d+) values")
Arguments = dict[str, Any]


def packings(shape: tuple[int, int]) -> list[Packing]:
    grids = [GridConfig(3, 64, False, 8), GridConfig(8, 32, False, 16), GridConfig(5, 64, True, 8)]
    return [
        *(grid.packing(shape) for grid in grids),
        codebook(shape, 3, 2, 0),
        codebook(shape, 4, 8, 3),
        pairs(shape, 6),
        DenseConfig(16).packing(shape),
    ]


def described(folder: Path, arch: str, turn: int) -> Arguments:
    """What the engine is told of a sound model, whose matrices take turns in the layouts: arguments of native matrices, arrays as bytes."""
    counter = iter(range(turn, 1000))

    def choose(_: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
        if spec.role not in (Role.PROJECTION, Role.LORA, Role.HEAD):
            return default_side(spec, shape)
        every = packings((shape[0], shape[1]))
        return every[next(counter) % len(every)]

    write_model(folder / f"{turn}.safetensors", arch, DIMS[arch], choose, seed=turn)
    weights = packed_weights(open_packed(folder / f"{turn}.safetensors"))
    sizes = {name: getattr(DIMS[arch], name) for name in ("layers", "width", "hidden", "vocab", "heads", "head_size")}
    matrices = {name: as_bytes(engine._matrix(stored)) for name, stored in weights.matrices.items()}
    vectors = {name: np.ascontiguousarray(values, np.float32).reshape(-1) for name, values in weights.vectors.items()}
    return {
        "arch": arch,
        "sizes": sizes,
        "matrices": matrices,
        "vectors": vectors,
        "embedding": as_bytes(engine._embedding(weights.embedding)),
    }


def as_bytes(table: Arguments) -> Arguments:
    return table | {"arrays": {suffix: array.view(np.uint8) for suffix, array in table["arrays"].items()}}


def with_number(table: Arguments, key: str, number: int) -> Arguments:
    return table | ({key: number} if key in ("rows", "cols") else {"numbers": table["numbers"] | {key: number}})


def build(arguments: Arguments, threads: int = 1) -> Any:
    """The engine of these matrices. Raises what is in REFUSED."""
    matrices = {name: _native.Matrix(**table) for name, table in arguments["matrices"].items()}
    made = arguments | {"matrices": matrices, "embedding": _native.Matrix(**arguments["embedding"])}
    return _native.Engine(**made, threads=threads, quantize_activations=True)


def run(arguments: Arguments) -> bool:
    """Whether the engine took it; if so, it has read a step of three tokens."""
    try:
        built = build(arguments)
    except REFUSED:
        return False
    try:
        built.forward(*step(arguments["sizes"]))
    except REFUSED:
        return False
    return True


def step(sizes: dict[str, int]) -> list[Any]:
    """A step of two sequences for a model of these sizes; with sizes that no memory holds, for the sound one."""
    dims = Dims(**sizes, ranks={}) if max(sizes.values()) < 1000 else DIMS["rwkv7"]
    states = [array for _ in range(2) for array in ARCHITECTURES["rwkv7"].zero_state(dims, 2).arrays]
    tokens, wanted = np.array([1, 2, 3], np.uint32), np.array([1, 2], np.uint32)
    return [tokens, [(2, 1), (1, 0)], *states, wanted, np.empty((2, dims.vocab), np.float32)]


def given_what_it_asks_for(arguments: Arguments, name: str, key: str | None = None, number: int = 0) -> Arguments | None:
    """The arguments with one tensor's number changed, if any, and its arrays of just the bytes that the engine then wants.

    None if it wants no such tensor, or more than a megabyte.
    """
    part, tensors = ("embedding", arguments) if name == "emb.weight" else (name, arguments["matrices"])
    described = tensors[part] if key is None else with_number(tensors[part], key, number)
    arrays: dict[str, Any] = dict.fromkeys(described["arrays"], np.zeros(0, np.uint8))
    for _ in range(len(arrays) + 1):
        table = {part: described | {"arrays": arrays}}
        changed = arguments | (table if name == "emb.weight" else {"matrices": tensors | table})
        try:
            build(changed)
            return changed
        except ValueError as refusal:
            found = WANTED.search(str(refusal))
            if found is None or int(found[2]) > 1 << 20:
                return None
            arrays = arrays | {found[1]: np.full(int(found[2]), 0x5A, np.uint8)}
        except REFUSED:
            return None
    return changed


@pytest.mark.parametrize("turn", [0, 3])
@pytest.mark.parametrize("arch", DIMS)
def test_a_wrong_number_is_refused_or_harmless(tmp_path: Path, arch: str, turn: int) -> None:
    """Numbers that overflow in the sizes of arrays among them: what such an array is asked to hold is all there is of it."""
    sound = described(tmp_path, arch, turn)
    assert run(sound)
    tables = sound["matrices"] | {"emb.weight": sound["embedding"]}
    names = [next(name for name, table in tables.items() if table["codec"] == codec) for codec in READ]
    refused = 0
    for number in NUMBERS:
        for name in names:
            for key in READ[tables[name]["codec"]]:
                changed = given_what_it_asks_for(sound, name, key, number)
                assert changed is None or 0 <= number < 2**31, (name, key, number)
                refused += changed is None or not run(changed)
        for key in sound["sizes"]:
            refused += not run(sound | {"sizes": sound["sizes"] | {key: number}})
    assert refused > 200


@pytest.mark.parametrize("turn", [0, 3])
@pytest.mark.parametrize("arch", DIMS)
def test_arrays_of_just_the_bytes_that_are_asked_for_are_enough_and_no_less(tmp_path: Path, arch: str, turn: int) -> None:
    sound = described(tmp_path, arch, turn)
    for name in (*sound["matrices"], "emb.weight"):
        exact = given_what_it_asks_for(sound, name)
        assert exact is not None and run(exact)
        table = exact["embedding"] if name == "emb.weight" else exact["matrices"][name]
        for suffix, array in table["arrays"].items():
            for wrong in (array[:-1], array[::2], array.reshape(1, -1), None, "codes"):
                table["arrays"][suffix] = wrong
                assert not run(exact), (name, suffix)
            table["arrays"][suffix] = array
        assert not run(sound | {"embedding": {}}) and not run(sound | {"matrices": {}}) and not run(sound | {"vectors": {}})


@pytest.mark.parametrize("arch", DIMS)
def test_a_step_that_does_not_fit_is_refused(tmp_path: Path, arch: str) -> None:
    sound = described(tmp_path, arch, 0)
    built = build(sound, threads=2)
    right = step(sound["sizes"])
    tokens = [[], [1, 2], [1, 2, 40], [1, 2, 2**32 - 1], [1] * 65]
    parts = [[], [(3, 2)], [(3, -1)], [(2, 0), (1, 0)], [(0, 0), (3, 1)], [(4, 0)], [(2**64 - 1, 0), (4, 1)], [(1, 0)]]
    wanted = [[0], [0, 3], [0, 2**32 - 1], [0] * 4]
    logits = [np.empty((2, 39), np.float32), np.empty(0, np.float32), np.empty((2, 40)), np.empty((2, 80), np.float32)[:, ::2]]
    wrong: list[tuple[int, Any]] = [
        *((0, np.array(each, np.uint32)) for each in tokens),
        (0, np.array([1, 2, 3], np.int64) - 2),
        *((1, each) for each in parts),
        *((at, part) for at in range(2, 8) for part in (right[at][..., :-1].copy(), right[at].reshape(-1)[:0], right[at][:, :1].copy())),
        *((8, np.array(each, np.uint32)) for each in wanted),
        *((9, each) for each in logits),
    ]
    for at, argument in wrong:
        with pytest.raises(REFUSED):
            built.forward(*right[:at], argument, *right[at + 1 :])
    built.forward(*right)


def test_codes_and_numbers_may_be_anything(tmp_path: Path) -> None:
    """Every bit of every array at random, NaN and infinities among the scales: the step ends, whatever it writes."""
    rng = np.random.default_rng(0)
    for arch in DIMS:
        for turn in range(7):
            sound = described(tmp_path, arch, turn)
            tables = [*sound["matrices"].values(), sound["embedding"]]
            for table in tables:
                table["arrays"] = {suffix: rng.integers(0, 256, len(array), np.uint8) for suffix, array in table["arrays"].items()}
            ends = np.array([np.nan, np.inf, -1e38, 0], np.float32)
            sound["vectors"] = {name: rng.choice(ends, len(values)) for name, values in sound["vectors"].items()}
            assert run(sound)
