"""Matrices stored by columns: the walk is the definition, code for code; widths are the best of all; no step of the update loses."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.codecs import ColumnwiseConfig, GridConfig, SectionsConfig
from rwkvquant.kernels import workshop
from rwkvquant.kernels.gemv_sections import WIDTHS
from rwkvquant.quantizers import QuantizerOptions, quantizer_for
from rwkvquant.quantizers.columnwise import update as update_module
from rwkvquant.quantizers.columnwise.scales import row_scales
from rwkvquant.quantizers.columnwise.state import State
from rwkvquant.quantizers.columnwise.tables import BINS, fit_table
from rwkvquant.quantizers.columnwise.update import update
from rwkvquant.quantizers.columnwise.walk import FITS, walk
from rwkvquant.quantizers.columnwise.widths import ERROR, choose_widths
from rwkvquant.quantizers.shared.clustering import clustering_cost, exact_kmeans
from rwkvquant.quantizers.shared.factor import factorize
from rwkvquant.quantizers.shared.hessian import Hessian
from rwkvquant.quantizers.shared.loss import hessian_error, row_losses
from tests.quantizers.columnwise.definition import nearest, walk_by_definition
from tests.quantizers.examples import matrix_and_hessian

OPTIONS = QuantizerOptions()
CONFIGS = [ColumnwiseConfig(2), ColumnwiseConfig(3), ColumnwiseConfig(4), SectionsConfig(2.75), SectionsConfig(3.5)]


def problem(seed: int, rows: int, cols: int) -> tuple[torch.Tensor, torch.Tensor]:
    W, H = matrix_and_hessian(seed, rows, max(cols, 6))
    return torch.from_numpy(W[:, :cols]), torch.from_numpy(H[:cols, :cols])


def quantised(method: str, W: torch.Tensor, H: torch.Tensor | None, config: Any, **options: Any) -> Any:
    hessian = None if H is None else Hessian(H, W.dtype)
    return quantizer_for(method, config)(W, hessian, config, replace(OPTIONS, **options))


def state_of(W: torch.Tensor, seed: int = 0) -> State:
    """Tables of each width, columns of each width, scales of about the right size."""
    draw = torch.Generator().manual_seed(seed)
    rows, cols = W.shape
    tables = {width: torch.linspace(-64, 60, 2**width).round().to(W) for width in (2, 3, 4)} | {6: torch.arange(-32, 32).to(W)}
    widths = torch.tensor(WIDTHS)[torch.randint(0, len(WIDTHS), (cols,), generator=draw)]
    size = torch.tensor([2 / float(tables[width].max()) for width in widths.tolist()]).to(W)
    row_scale = (0.5 + torch.rand(rows, generator=draw)).half().to(W)
    return State(widths, tables, row_scale, size.half().to(W), torch.zeros(cols, rows, dtype=torch.uint8))


@pytest.fixture(params=[True, False], ids=["native", "plain"])
def each_version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        for where in (workshop, update_module):
            monkeypatch.setattr(where, "native_module", lambda: None)


@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("block_size", [1, 32, 128], ids=lambda b: f"block{b}")
@pytest.mark.parametrize("act_order", [False, True], ids=["in_order", "act_order"])
@pytest.mark.parametrize(("rows", "cols"), [(5, 40), (18, 37), (4, 1), (6, 150)], ids=str)
def test_the_walk_is_the_definition(rows: int, cols: int, act_order: bool, block_size: int) -> None:
    W, H = problem(1, rows, cols)
    state = state_of(W)
    tables = [state.tables[width].numpy() for width in state.widths.tolist()]
    codes, scales = walk_by_definition(
        W.numpy(), H.numpy(), tables, state.row_scale.numpy(), state.col_scale.numpy(), 0.02, act_order, FITS
    )
    walk(W, state, factorize(H, damping=0.02, act_order=act_order), block_size)
    np.testing.assert_array_equal(state.codes.T.numpy(), codes)
    np.testing.assert_array_equal(state.col_scale.numpy(), scales)


@pytest.mark.usefixtures("each_version")
def test_the_walk_returns_the_weights_that_it_rounded() -> None:
    """Without a factor, these are the weights. With one, each code is the nearest of what was returned."""
    W, H = problem(2, 7, 50)
    assert torch.equal(walk(W, state_of(W), None), W.T)
    state = state_of(W)
    rounded = walk(W, state, factorize(H, damping=0.05, act_order=True)) / state.row_scale / state.col_scale[:, None]
    for column, row in np.ndindex(50, 7):
        table = state.tables[int(state.widths[column])].numpy()
        assert int(state.codes[column, row]) == nearest(float(rounded[column, row]), table)


@pytest.mark.parametrize("total", range(8, 25))
def test_widths_are_the_best_of_all_but_for_one_step(total: int) -> None:
    """Four columns and all choices. Sums that no choice of these widths has are left out."""
    cost = torch.tensor([3.0, 0.2, 40.0, 1.0], dtype=torch.float64)
    losses = {
        widths: sum(c * ERROR[width] for c, width in zip(cost.tolist(), widths, strict=True))
        for widths in itertools.product(WIDTHS, repeat=4)
        if sum(widths) == total
    }
    if losses:
        chosen = tuple(choose_widths(cost, total).tolist())
        # not always the least, as the last step may not fit: then at most what that step would have saved is lost
        lost = max(cost) * (ERROR[4] - ERROR[6])
        assert losses[chosen] <= min(losses.values()) + float(lost)


def test_widths_have_every_sum_that_parameters_can_ask_for() -> None:
    draw = np.random.default_rng(0)
    for cols in (1, 2, 3, 17, 130):
        for quarters in range(8, 25):
            config = SectionsConfig(quarters / 4)
            for cost in (draw.lognormal(0, 2, cols), np.zeros(cols), np.ones(cols)):
                widths = choose_widths(torch.from_numpy(cost), config.width_sum(cols))
                assert int(widths.sum()) == config.width_sum(cols) and set(widths.tolist()) <= set(WIDTHS)


@pytest.mark.parametrize("width", [2, 3, 4])
def test_a_table_is_nearly_the_best_one(width: int) -> None:
    """Bins, and rounding to whole numbers, cost 2.5 % at most; they cost most where a table has 16 entries."""
    draw = np.random.default_rng(width)
    x, p = torch.from_numpy(draw.standard_normal((20, 30))), torch.from_numpy(draw.lognormal(0, 1, (20, 1)))
    table, step = fit_table(x, p.expand(x.shape), width)
    assert table.tolist() == table.round().tolist() and 32 < table.abs().max() <= 64 and bool((table[1:] > table[:-1]).all())
    flat, weights = x.flatten()[None], p.expand(x.shape).flatten()[None]
    best = clustering_cost(flat, weights, exact_kmeans(flat, weights, 2**width))
    assert clustering_cost(flat, weights, step * table[None]) < 1.025 * best


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_without_points_that_count_is_that_of_a_normal_distribution(width: int) -> None:
    x = torch.special.ndtri((torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS)[None]
    for points, p in ((x, torch.zeros_like(x)), (torch.zeros(3, 5, dtype=torch.float64), torch.ones(3, 5, dtype=torch.float64))):
        table, step = fit_table(points, p, width)
        error = clustering_cost(x, torch.ones_like(x), step * table[None]) / BINS
        assert float(error) == pytest.approx(ERROR[width], rel=0.15)


def test_row_scales_follow_the_sizes_of_rows() -> None:
    W = torch.randn(40, 300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    sizes, columns = torch.logspace(-2, 1, 40).double(), torch.logspace(-1, 1, 300).double()
    s = row_scales(1e-3 * sizes[:, None] * W * columns, torch.ones(300, dtype=torch.float64))
    ratio = s / sizes
    assert float(ratio.max() / ratio.min()) < 1.5


@pytest.mark.usefixtures("each_version")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_no_round_of_the_update_loses(seed: int, damping: float) -> None:
    W, H = problem(seed, 20, 70)
    state = state_of(W, seed)
    walk(W, state, factorize(H, damping=0.05, act_order=True))
    damped, penalised = H.clone(), damping * float(H.diagonal().mean())
    damped.diagonal().add_(penalised)
    losses = [row_losses(W, state.decode().T, damped).sum()]
    for _ in range(3):
        update(W, H, state, damping, rounds=1)
        losses.append(row_losses(W, state.decode().T, damped).sum())
    assert losses[1] < losses[0] and all(after <= before * (1 + 1e-12) for before, after in itertools.pairwise(losses))


def test_an_input_that_is_nearly_always_zero_keeps_a_reasonable_scale() -> None:
    """Where H says almost nothing of a column, its scale must not be free to make up for the errors of others."""
    W, H = problem(4, 24, 60)
    H[7], H[:, 7] = 1e-9 * H[7], 1e-9 * H[:, 7]
    H[7, 7] = 1e-12
    for config in CONFIGS:
        Q = torch.from_numpy(quantised("gptvq", W, H, config).decode())
        assert float((W[:, 7] - Q[:, 7]).square().sum()) < float(W[:, 7].square().sum())


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_each_step_loses_less_than_the_one_before(config: Any) -> None:
    W, H = problem(5, 40, 120)
    nearest_codes, fed_back, refined = (
        hessian_error(W, each.decode(), H)
        for each in (quantised("kmeans", W, H, config), quantised("gptvq", W, H, config, refined=False), quantised("gptvq", W, H, config))
    )
    assert refined < fed_back < nearest_codes


def test_widths_of_their_own_gain_where_inputs_are_uneven() -> None:
    W, H = problem(6, 64, 150)
    of_one, of_several = (quantised("gptvq", W, H, config) for config in (ColumnwiseConfig(3), SectionsConfig(3)))
    assert hessian_error(W, of_several.decode(), H) < 0.7 * hessian_error(W, of_one.decode(), H)
    grid = GridConfig(3, 64)
    assert hessian_error(W, of_several.decode(), H) < hessian_error(W, quantised("gptq", W, H, grid).decode(), H)


def test_weights_that_a_table_can_represent_are_nearly_exact() -> None:
    draw = np.random.default_rng(0)
    table = np.array([-64, -40, -21, -5, 9, 22, 41, 60])
    W = torch.from_numpy(
        2.0 ** draw.integers(-3, 3, 30)[:, None] * table[draw.integers(0, 8, (30, 200))] * 2.0 ** draw.integers(-3, 3, 200)
    )
    assert hessian_error(W, quantised("gptvq", W, torch.eye(200).double(), ColumnwiseConfig(3)).decode(), torch.eye(200)) < 2e-3


@pytest.mark.parametrize("method", ["kmeans", "gptvq"])
@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_zeros_dead_inputs_and_tiny_matrices_are_quantised(method: str, config: Any) -> None:
    W, H = problem(7, 12, 40)
    W[3], W[:, 5], H[:, 9], H[9] = 0, 0, 0, 0
    for part, of_part in (
        (W, H),
        (W[:1, :1], H[:1, :1]),
        (torch.zeros_like(W), H),
        (1e-6 * W, H),
        (W.float(), H),
        (W, torch.zeros_like(H)),
    ):
        q = quantised(method, part, of_part, config)
        assert q.shape == part.shape and np.isfinite(q.decode()).all()
    Q = quantised(method, W, H, config).decode()
    assert np.abs(Q[3]).max() < 1e-2 * np.abs(Q).max()
    assert method == "gptvq" or np.abs(Q[:, 5]).max() < 1e-2 * np.abs(Q).max()  # with feedback it makes up for the errors of others
