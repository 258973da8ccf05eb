"""The native engine is the NumPy forward, for every layout and odd sizes; and how tokens and threads are shared out changes no bit."""

from __future__ import annotations

import dataclasses
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rwkvquant import _native
from rwkvquant.architectures import ARCHITECTURES, Dims, Role, TensorSpec
from rwkvquant.bench.layouts import PRESETS, codebook, pairs
from rwkvquant.bench.random_model import default_side, write_model, write_random_model
from rwkvquant.codecs import ColumnwiseConfig, DenseConfig, GridConfig, PackedTensor, Packing, SectionsConfig
from rwkvquant.codecs.dense import exact
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.kernels.activations import quantize_activations
from rwkvquant.kernels.gemv_columnwise import quantize_columns
from rwkvquant.kernels.state import RecurrentState
from rwkvquant.runtime.engines.base import Engine
from rwkvquant.runtime.engines.native import NativeEngine
from rwkvquant.runtime.engines.reference import ReferenceEngine
from rwkvquant.runtime.session import load, logits_hash
from rwkvquant.runtime.weights import Weights, packed_weights

Shape = tuple[int, int]

# No width is a multiple of 64, ranks run from 8 to 96, and heads have 16, 32, 48 and 64 rows.
SIZES = {
    "rwkv7 heads of 16": ("rwkv7", Dims(2, 80, 200, 100, 5, 16, {"Rw": 8, "Ra": 24, "Rv": 17, "Rg": 96})),
    "rwkv7 heads of 48": ("rwkv7", Dims(2, 144, 130, 77, 3, 48, {"Rw": 33, "Ra": 8, "Rv": 8, "Rg": 40})),
    "rwkv7 heads of 64": ("rwkv7", Dims(3, 320, 1000, 300, 5, 64, {"Rw": 64, "Ra": 64, "Rv": 32, "Rg": 90})),
    "rwkv6 heads of 16": ("rwkv6", Dims(2, 80, 200, 100, 5, 16, {"Rm": 8, "Rd": 24})),
    "rwkv6 heads of 32": ("rwkv6", Dims(3, 160, 130, 77, 5, 32, {"Rm": 19, "Rd": 70})),
    "rwkv6 heads of 64": ("rwkv6", Dims(2, 320, 1000, 300, 5, 64, {"Rm": 32, "Rd": 96})),
}
SMALL = [name for name in SIZES if name.endswith("16")]


def every_layout(shape: Shape, seed: int) -> Packing:
    """One after another, all kinds of packing that a matrix can have."""
    kinds = [
        GridConfig(bits, group, seed % 2 == 0, scale_bits).packing(shape)
        for bits in range(1, 9)
        for group in (32, 64)
        for scale_bits in (8, 16)
    ]
    kinds += [codebook(shape, bits, rows, rank) for bits, rows in ((2, 2), (3, 2), (3, 8), (4, 4), (4, 16)) for rank in (0, 1, 8)]
    kinds += [pairs(shape, bits) for bits in range(4, 9)]
    kinds += [DenseConfig(16).packing(shape), DenseConfig(32).packing(shape), GridConfig(5).packing(shape, rows=True)]
    return kinds[seed % len(kinds)]


def random_weights(folder: Path, size: str, seed: int = 0, columns: bool = True) -> Weights:
    """All layouts in one model: matrices, embedding and head take turns. The second block has a channel mix that is not sparse.

    Without `columns` no matrix is stored by columns.
    """
    arch, dims = SIZES[size]
    counter = iter(range(seed, 10_000))

    def choose(name: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
        if spec.role not in (Role.PROJECTION, Role.LORA, Role.HEAD):
            return default_side(spec, shape)
        turn = 7 * next(counter) + 3 * seed
        if columns and spec.nonnegative_input and not name.startswith("blocks.1."):
            by_columns = ColumnwiseConfig(2 + turn % 3) if turn % 2 else SectionsConfig(2.5 + turn // 2 % 3)
            return by_columns.packing(shape)
        return every_layout((shape[0], shape[1]), turn)

    write_model(folder / "random.safetensors", arch, dims, choose, seed=seed)
    return packed_weights(open_packed(folder / "random.safetensors"))


def random_state(dims: Dims, batch: int) -> RecurrentState:
    rng, zeros = np.random.default_rng(1), ARCHITECTURES["rwkv7"].zero_state(dims, batch)
    return zeros.map(lambda part: rng.standard_normal(part.shape).astype(np.float32) / 2)


class Int8Product:
    """Stands where a step has a matrix: x @ W.T with x rounded as the quantised products round it."""

    __array_ufunc__ = None  # so that x @ this asks this

    def __init__(self, W: NDArray[np.float32]) -> None:
        self.W = W

    @property
    def T(self) -> Int8Product:
        return self

    def __rmatmul__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.stack([self.rounded(row) for row in x]) @ self.W.T

    def rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        q, scale = quantize_activations(x)
        return (q.reshape(len(scale), -1) * scale[:, None]).reshape(-1)[: len(x)]


class ColumnwiseProduct(Int8Product):
    """The same for a matrix stored by columns."""

    def __init__(self, stored: PackedTensor) -> None:
        self._col_scale = stored.arrays["col_scale"][: stored.shape[1]]
        super().__init__(stored.decode() / self._col_scale.astype(np.float32))

    def rounded(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        q, scale = quantize_columns(x, self._col_scale)
        return q * scale


def int8_definition(weights: Weights) -> ReferenceEngine:
    engine = ReferenceEngine(weights)
    tensors: dict[str, Any] = dict(engine._tensors)
    for name, stored in weights.matrices.items():
        if (form := stored.native_form()) is not None and form.int8:
            stack, _, index = name.rpartition(".")
            if stack in tensors:
                tensors[stack] = list(tensors[stack])
                tensors[stack][int(index)] = Int8Product(tensors[stack][int(index)])
            else:
                tensors[name] = ColumnwiseProduct(stored) if form.codec in ("columnwise", "sections") else Int8Product(tensors[name])
    engine._tensors = tensors
    return engine


def assert_near(got: NDArray[np.float32], want: NDArray[np.float32], share: float) -> None:
    assert np.abs(got - want).max() <= share * np.abs(want).max()


def fields(state: RecurrentState) -> list[NDArray[np.float32]]:
    return [state.att_shift, state.ffn_shift, state.wkv]


def assert_equal(a: RecurrentState, b: RecurrentState) -> None:
    for one, other in zip(fields(a), fields(b), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", SIZES)
def test_the_engine_with_float32_activations_is_the_definition(tmp_path: Path, name: str, seed: int) -> None:
    weights = random_weights(tmp_path, name, seed)
    tokens, state = [5, 1, 76, 0, 33], random_state(weights.dims, 1)
    (want,), after = ReferenceEngine(weights).read([tokens], state, "all")
    (got,), got_after = NativeEngine(weights, 1, "float32").read([tokens], state, "all")
    assert_near(got, want, 1e-5)
    for one, expected in zip(fields(got_after), fields(after), strict=True):
        assert_near(one, expected, 1e-5)


@pytest.mark.parametrize(("by_columns", "limit", "least"), [(False, 1e-5, 22), (True, 1e-4, 8)], ids=["by rows", "by columns"])
@pytest.mark.parametrize("name", SIZES)
def test_the_engine_with_int8_activations_is_the_definition_on_rounded_inputs(
    tmp_path: Path, name: str, by_columns: bool, limit: float, least: int
) -> None:
    """Where float32 falls to the other side of a half, an activation is a whole step away. Which tokens have one depends on the CPU.

    With four seeds at most 4 of 32 tokens had one, and 13 with matrices that are stored by columns: a step of their 16 bits changes the
    input of the next layer a little. `least` is three to four standard deviations below. A wrong product changes all tokens.
    """
    weights, tokens = random_weights(tmp_path, name, 1, by_columns), [[7 * i % 70] for i in range(32)]
    state = random_state(weights.dims, len(tokens))
    want, after = int8_definition(weights).read(tokens, state, "last")
    got, got_after = NativeEngine(weights, 1, "int8").read(tokens, state, "last")
    exact = 0
    for i in range(len(tokens)):
        assert_near(got[i], want[i], 0.1)
        near = [np.abs(got[i] - want[i]).max() <= limit * np.abs(want[i]).max()]
        for one, expected in zip(fields(got_after.select([i])), fields(after.select([i])), strict=True):
            near.append(np.abs(one - expected).max() <= limit * np.abs(expected).max())
        exact += all(near)
    assert exact >= least


@pytest.mark.parametrize("activations", ["int8", "float32"])
@pytest.mark.parametrize("name", SIZES)
def test_threads_batches_and_steps_change_no_bit(tmp_path: Path, name: str, activations: str) -> None:
    weights = random_weights(tmp_path, name)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 77, length).tolist() for length in (1, 70, 3, 64, 7)]
    state = random_state(weights.dims, len(sequences))
    one = NativeEngine(weights, 1, activations)
    alone = [one.read([sequence], state.select([i]), "all") for i, sequence in enumerate(sequences)]
    for threads in (1, 2, 5):
        engine = NativeEngine(weights, threads, activations)
        rows, after = engine.read(sequences, state, "all")
        last, _ = engine.read(sequences, state, "last")
        for i, ((want,), want_after) in enumerate(alone):
            np.testing.assert_array_equal(rows[i], want)
            np.testing.assert_array_equal(last[i], want[-1:])
            assert_equal(after.select([i]), want_after)
    token_by_token, part = [], state.select([1])
    for token in sequences[1]:
        (row,), part = one.read([[token]], part, "last")
        token_by_token.append(row[0])
    np.testing.assert_array_equal(np.stack(token_by_token), alone[1][0][0])
    assert_equal(part, alone[1][1])


@pytest.mark.parametrize(("arch", "ranks"), [("rwkv7", dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 8)), ("rwkv6", {"Rm": 8, "Rd": 8})])
def test_chunks_of_a_matrix_stored_by_columns_are_shared_by_any_number_of_threads(tmp_path: Path, arch: str, ranks: dict[str, int]) -> None:
    """Three chunks: with 2 threads one is shared by two, with 16 each is shared by five or six."""
    dims = Dims(2, 1088, 520, 50, 17, 64, ranks)

    def choose(_: str, spec: TensorSpec, shape: tuple[int, ...]) -> Packing:
        return ColumnwiseConfig(3).packing(shape) if spec.nonnegative_input else default_side(spec, shape)

    write_model(tmp_path / "m.safetensors", arch, dims, choose)
    weights, state, sequences = packed_weights(open_packed(tmp_path / "m.safetensors")), random_state(dims, 3), [[1], [2, 3, 4], [5, 6]]
    (want, after), *rest = [NativeEngine(weights, threads).read(sequences, state, "all") for threads in (1, 2, 3, 4, 7, 16)]
    for got, got_after in rest:
        np.testing.assert_array_equal(np.concatenate(got), np.concatenate(want))
        assert_equal(after, got_after)
    for threads, shares in ((1, (1,)), (2, (1, 1)), (2, (0.1, 3)), (3, (1, 0.001, 1)), (5, (1, 2, 3, 4, 5)), (16, range(1, 17))):
        engine = NativeEngine(weights, threads)
        engine.fix_shares(shares)
        for i, sequence in enumerate(sequences):
            part = state.select([i])
            for at, token in enumerate(sequence):
                (row,), part = engine.read([[token]], part, "last")
                np.testing.assert_array_equal(row[0], want[i][at])
            assert_equal(after.select([i]), part)


def test_a_matrix_stored_by_columns_is_refused_where_its_input_may_be_negative(tmp_path: Path) -> None:
    weights = random_weights(tmp_path, SMALL[0])
    width = weights.dims.width
    packing = ColumnwiseConfig(3).packing((width, width))
    stored = PackedTensor(packing, packing.codec.random_arrays(np.random.default_rng(0), packing, 0.1))
    with pytest.raises(FormatError, match=r"must have an input that is never negative \(blocks.0.att.output.weight\)"):
        NativeEngine(dataclasses.replace(weights, matrices=weights.matrices | {"blocks.0.att.output.weight": stored}), 1)


def test_more_sequences_than_a_step_holds(tmp_path: Path) -> None:
    weights = random_weights(tmp_path, SMALL[0])
    engine = NativeEngine(weights, 2)
    sequences = [[i % 77] * (1 + i % 3) for i in range(130)]
    state = random_state(weights.dims, 130)
    rows, after = engine.read(sequences, state, "last")
    for i in (0, 1, 2, 63, 64, 65, 127, 128, 129):
        (want,), want_after = engine.read([sequences[i]], state.select([i]), "last")
        np.testing.assert_array_equal(rows[i], want)
        assert_equal(after.select([i]), want_after)


@pytest.mark.parametrize("name", SMALL)
def test_an_original_in_16_bits_gives_the_bits_of_the_same_numbers_in_32(tmp_path: Path, name: str) -> None:
    weights = random_weights(tmp_path, name)
    sound = {"emb.weight": weights.embedding, **weights.matrices}
    decoded = {key: stored.decode() for key, stored in sound.items()}
    bfloat = {key: (values.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32) for key, values in decoded.items()}
    for values in bfloat.values():
        values.flat[0] = 2.0**-40  # which float16 does not have
    half = {key: values.astype(np.float16).astype(np.float32) for key, values in decoded.items()}
    for layout, numbers in (("dense.bf16", bfloat), ("dense.f16", half)):
        narrow = {key: exact(values) for key, values in numbers.items()}
        wide = {key: PackedTensor(Packing("dense.f32", values.shape), {"values": values.reshape(-1)}) for key, values in numbers.items()}
        assert {stored.layout for stored in narrow.values()} >= {layout}
        read = []
        for tensors in (narrow, wide):
            embedding = tensors.pop("emb.weight")
            engine = NativeEngine(dataclasses.replace(weights, matrices=tensors, embedding=embedding), 2)
            read.append(engine.read([[3, 4, 5], [6]], ARCHITECTURES[weights.arch].zero_state(weights.dims, 2), "all"))
        (got, after), (want, after_wide) = read
        np.testing.assert_array_equal(np.concatenate(got), np.concatenate(want))
        assert_equal(after, after_wide)


@pytest.mark.parametrize("engine", [lambda weights: NativeEngine(weights, 2), ReferenceEngine], ids=["native", "reference"])
@pytest.mark.parametrize("name", SMALL)
def test_read_leaves_a_state_alone_and_advance_changes_its_slots_and_no_other(
    tmp_path: Path, name: str, engine: Callable[[Weights], Engine]
) -> None:
    own = engine(random_weights(tmp_path, name))
    state = random_state(SIZES[name][1], 5)
    kept = state.copy()
    sequences, slots = [[3, 4, 5], [6]], [3, 0]
    want, after = own.read(sequences, state.select(slots), "all")
    assert_equal(state, kept)
    got = own.advance(sequences, state, slots, "all")
    np.testing.assert_array_equal(np.concatenate(got), np.concatenate(want))
    assert_equal(state.select(slots), after)
    others = [1, 2, 4]
    assert_equal(state.select(others), kept.select(others))


@pytest.mark.parametrize("name", SMALL)
def test_weights_that_do_not_fit_together_are_refused(tmp_path: Path, name: str) -> None:
    weights = random_weights(tmp_path, name)
    matrix, vector = "blocks.1.att.key.weight", "blocks.0.ln1.bias"
    stored = exact(np.zeros((weights.dims.width, weights.dims.width), np.float32))
    wide = dataclasses.replace(stored, packing=Packing("dense.f16", (weights.dims.width, 2 * weights.dims.width)))
    other = exact(np.zeros((16, 16), np.float32))
    wrong = [
        (dataclasses.replace(weights, matrices={n: m for n, m in weights.matrices.items() if n != matrix}), "needs this matrix"),
        (dataclasses.replace(weights, matrices=weights.matrices | {matrix: other}), "shape of the model's sizes"),
        (dataclasses.replace(weights, matrices=weights.matrices | {matrix: wide}), "must hold"),
        (dataclasses.replace(weights, vectors={n: v for n, v in weights.vectors.items() if n != vector}), "needs this vector"),
        (dataclasses.replace(weights, vectors=weights.vectors | {vector: np.zeros(3, np.float32)}), "must have"),
        (dataclasses.replace(weights, embedding=other), "one row of the width"),
    ]
    for broken, message in wrong:
        with pytest.raises(FormatError, match=message):
            NativeEngine(broken, 1)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("name", ["rwkv7 heads of 64", "rwkv6 heads of 64"])
def test_presets_run(tmp_path: Path, name: str, preset: str) -> None:
    arch, dims = SIZES[name]
    write_random_model(tmp_path / "m.safetensors", arch, dims, layouts=preset, bits=4.5)
    logits, _ = load(tmp_path / "m.safetensors").forward([1, 2, 3])
    want, _ = load(tmp_path / "m.safetensors", activations="float32").forward([1, 2, 3])
    assert_near(logits, want, 0.2)  # random weights enlarge what rounding changes
    assert math.isfinite(float(logits.sum()))


@pytest.mark.parametrize("isa", _native.available_isas())
def test_every_body_gives_the_same_logits(tmp_path: Path, isa: str) -> None:
    """Also of a prompt of more vectors than a pass has. In a process of its own, as RWKVQUANT_ISA is read once."""
    random_weights(tmp_path, "rwkv7 heads of 48")
    prompts = [[5, 1, 76, 0, 33], [7 * i % 77 for i in range(300)]]
    script = f"""
from rwkvquant.runtime.session import load, logits_hash
model = load({str(tmp_path / "random.safetensors")!r}, threads=2)
assert model.backend == {isa!r}
for prompt in {prompts}: print(logits_hash(model.forward(prompt)[0]))
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=os.environ | {"RWKVQUANT_ISA": isa})
    assert result.returncode == 0, result.stderr
    model = load(tmp_path / "random.safetensors")
    assert result.stdout.split() == [logits_hash(model.forward(prompt)[0]) for prompt in prompts]
