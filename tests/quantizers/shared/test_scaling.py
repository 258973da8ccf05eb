"""AWQ's scale against its definition: plain loops over alpha, and the error of the output on the text itself."""

from __future__ import annotations

import numpy as np
import torch

from rwkvquant.codecs import GridConfig
from rwkvquant.pipeline.tasks import Matrix, Task, perform
from rwkvquant.quantizers import QuantizerOptions
from rwkvquant.quantizers.shared.loss import hessian_error
from rwkvquant.quantizers.shared.scaling import STEPS, best_scale, scale_of
from rwkvquant.recipes import Setting
from rwkvquant.transforms import transform_named
from rwkvquant.transforms.column_scale import COLUMN_SCALE

GRID = GridConfig(3, 32, scale_bits=16)
PAPER = QuantizerOptions("paper", "none", False, 0.01)


def text_and_weights(rows: int = 24, cols: int = 96, tokens: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """A few channels of the input are far larger than others, as in trained models."""
    random = np.random.default_rng(3)
    X = random.standard_normal((tokens, cols)) * random.lognormal(0, 1.5, cols)
    return X, random.standard_normal((rows, cols))


def nearest(W: np.ndarray, group: int = 32, bits: int = 3) -> np.ndarray:
    """Round to nearest by the formulas of quantizers/uniform/grid.py."""
    Q = np.empty_like(W)
    for row in range(len(W)):
        for start in range(0, W.shape[1], group):
            w = W[row, start : start + group]
            low, high = min(w.min(), 0), max(w.max(), 0)
            scale = float(np.float16((high - low) / (2**bits - 1)))
            zero = np.clip(np.round(-low / scale), 0, 2**bits - 1)
            Q[row, start : start + group] = scale * (np.clip(np.round(w / scale) + zero, 0, 2**bits - 1) - zero)
    return Q


def test_the_scale_is_the_best_of_the_grid_on_the_output() -> None:
    X, W = text_and_weights()
    losses, scales = [], []
    for step in range(20):
        size = np.sqrt((X**2).mean(0)) ** (step / 20)
        s = np.float16(np.clip(size / np.sqrt(size.max() * size.min()), 2.0**-10, 2.0**10)).astype(np.float64)
        E = W - nearest(W * s) / s
        losses.append(((X @ E.T) ** 2).sum(1).mean())
        scales.append(s)
    best = int(np.argmin(losses))
    assert 0 < best < 19 and losses[best] < 0.9 * losses[0]
    task = Task(
        (Matrix("W", torch.from_numpy(W), Setting("rtn", GRID)),),
        PAPER,
        H=torch.from_numpy(X.T @ X / len(X)),
        transform=transform_named("column-scale").make(96, 0),
    )
    (done,) = perform(task)
    assert np.array_equal(done.transform.arrays["scale"], scales[best].astype(np.float16))
    undone = done.transform.undone(done.quantised.decode().astype(np.float64))
    assert np.allclose(undone, nearest(W * scales[best]) / scales[best], atol=1e-6)
    assert np.isclose(((X @ (W - undone).T) ** 2).sum(1).mean(), losses[best])
    assert np.isclose(done.error, losses[best] / ((X @ W.T) ** 2).sum(1).mean(), rtol=1e-5)


def test_products_with_one_input_have_one_scale() -> None:
    X, W = text_and_weights()
    H = torch.from_numpy(X.T @ X / len(X))
    parts = [torch.from_numpy(W[:8]), torch.from_numpy(W[8:])]
    settings = [Setting("rtn", GRID)] * 2

    def of(matrices: list[torch.Tensor]) -> np.ndarray:
        task = Task(tuple(Matrix(str(i), W, settings[0]) for i, W in enumerate(matrices)), PAPER, H=H, transform=COLUMN_SCALE.make(96, 0))
        scales = [done.transform.arrays["scale"] for done in perform(task)]
        assert all(np.array_equal(scale, scales[0]) for scale in scales)
        return scales[0]

    assert np.array_equal(of(parts), of([torch.from_numpy(W)]))  # rows do not depend on each other, so it is the scale of all rows


def test_it_is_never_worse_than_no_scale_on_the_calibration_text() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        W = random.standard_normal((8, 64))
        X = random.standard_normal((100, 64))
        H, W = torch.from_numpy(X.T @ X / 100), torch.from_numpy(W)
        errors = []
        for name in ("none", "column-scale"):
            task = Task((Matrix("W", W, Setting("rtn", GRID)),), PAPER, H=H, transform=transform_named(name).make(64, 0))
            (done,) = perform(task)
            errors.append(hessian_error(W, done.transform.undone(done.quantised.decode()), H))
        assert errors[1] <= errors[0] * (1 + 1e-6)


def test_a_channel_that_is_always_zero_keeps_the_scale_1() -> None:
    size = torch.tensor([4.0, 0.0, 1.0], dtype=torch.float64)
    assert scale_of(size, 0.5).tolist() == [2**0.5 // 0.0009765625 * 0.0009765625, 1.0, np.float16(0.5**0.5)]
    assert scale_of(torch.zeros(3), 0.5).tolist() == [1, 1, 1] == scale_of(size, 0).tolist()
    huge = scale_of(torch.tensor([1e-30, 1e30], dtype=torch.float64), (STEPS - 1) / STEPS)
    assert np.isfinite(huge).all() and (huge > 0).all()


def test_the_definition_does_not_depend_on_how_matrices_are_rounded() -> None:
    """`best_scale` asks for any rounding: with one that changes nothing all scales are equal, and the first, no scale, is taken."""
    X, W = text_and_weights()
    scale = best_scale([torch.from_numpy(W)], torch.from_numpy(X.T @ X / len(X)), lambda number, W, H: W)
    assert (scale == 1).all()
