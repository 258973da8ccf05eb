"""Block by block, the backward pass gives what autograd gives for the whole model at once; the loss is its formula."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from rwkvquant.architectures import QUANTIZED_ROLES
from rwkvquant.calibration.sensitivity import Backward, ModelParts
from rwkvquant.calibration.statistics import Sensitivity, limits
from rwkvquant.checkpoints import Checkpoint, open_checkpoint
from rwkvquant.errors import CheckpointError
from rwkvquant.models import CheckpointSource, forward_of
from rwkvquant.models.stages import text_stages
from tests.helpers import random_state_dict, write_pth

TOKENS = np.random.default_rng(3).integers(0, 64, (5, 7))
LAYERS, SEED = 3, 4


def tiny(tmp_path: Path, arch: str, scale: float = 1.0) -> Checkpoint:
    state = random_state_dict(arch, layers=LAYERS, width=32, head_size=8, hidden=48, vocab=64)
    state["blocks.1.ffn.key.weight"] *= scale
    return open_checkpoint(write_pth(tmp_path / f"{arch}.pth", state))


def parts_of(checkpoint: Checkpoint) -> tuple[ModelParts, ModuleType, dict[str, Any]]:
    source, module = CheckpointSource(checkpoint), forward_of(checkpoint.arch)
    outer, dims = source.globals(), checkpoint.dims
    parts = ModelParts(
        text_stages(checkpoint.arch),
        source.globals,
        source.block,
        checkpoint.architecture,
        LAYERS,
        dims.width,
        torch.device("cpu"),
    )
    return parts, module, outer


class Listened:
    """A matrix that keeps its input and its output, so that autograd can store the output's gradient."""

    def __init__(self, W: Tensor) -> None:
        self.W = W

    def product(self, x: Tensor) -> Tensor:
        self.x, self.y = x, functional.linear(x, self.W)
        self.y.retain_grad()
        return self.y


def whole_model(checkpoint: Checkpoint, batch: int) -> dict[str, Sensitivity]:
    """Plain autograd through all blocks at once: x and g of every product of the table, by logical name."""
    parts, module, outer = parts_of(checkpoint)
    names = {m.name for m in checkpoint.logical_matrices() if m.spec.role in QUANTIZED_ROLES}
    draws = torch.Generator().manual_seed(SEED)
    result: dict[str, Sensitivity] = {}
    for start in range(0, len(TOKENS), batch):
        heard: dict[str, Listened] = {}
        x, carry = module.embed(outer, torch.from_numpy(TOKENS[start : start + batch])).requires_grad_(True), None
        for layer in range(LAYERS):
            weights = parts.weights_of(layer)
            for key, W in weights.items():
                if f"blocks.{layer}.{key}" in names:
                    weights[key] = heard[f"blocks.{layer}.{key}"] = Listened(W)
            x, _, carry = module.block(weights, x, None, carry)
        log_p = torch.log_softmax(module.head(outer, x), -1).flatten(0, 1)
        drawn = torch.multinomial(log_p.detach().exp(), 1, generator=draws)
        (-log_p.gather(1, drawn)).sum().backward()
        for name, matrix in heard.items():
            assert matrix.y.grad is not None, name
            out, width = matrix.W.shape
            result.setdefault(name, Sensitivity(out, width))
            result[name].add(matrix.x.detach().reshape(-1, width), matrix.y.grad.reshape(-1, out))
    assert set(result) == names
    return result


def forward(parts: ModelParts, batch: int, folder: Path, seed: int = SEED) -> Backward:
    result = Backward(parts, TOKENS, batch, folder, seed)
    result.forward()
    return result


@pytest.mark.parametrize(("arch", "batch"), [("rwkv6", 2), ("rwkv7", 2), ("rwkv7", 5)])
def test_blocks_backward_are_the_whole_model_backward(tmp_path: Path, arch: str, batch: int) -> None:
    """For RWKV-7 that needs the gradient that reaches block 0's values through v_first from every later block."""
    checkpoint = tiny(tmp_path, arch)
    expected, seen = whole_model(checkpoint, batch), 0
    for layer, weights, sensitivities in forward(parts_of(checkpoint)[0], batch, tmp_path).blocks():
        for key, result in sensitivities.items():
            other = expected[f"blocks.{layer}.{key}"]
            E = torch.randn(weights[key].shape, generator=torch.Generator().manual_seed(1))
            every = torch.arange(len(E))
            torch.testing.assert_close(result.inputs.H, other.inputs.H, rtol=1e-4, atol=1e-6)
            scale = float(other.rows.max())
            torch.testing.assert_close(result.rows / scale, other.rows / scale, rtol=2e-3, atol=1e-5)
            assert result.loss(E, every) == pytest.approx(other.loss(E, every), rel=2e-3)
            seen += 1
    assert seen == len(expected) > 20


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_gradients_by_embedding_rows_are_those_of_the_whole_model(tmp_path: Path, arch: str) -> None:
    """Each token reads a copy of its row, so that a row that is read twice has two gradients."""
    parts, module, outer = parts_of(tiny(tmp_path, arch))
    backward = forward(parts, len(TOKENS), tmp_path)
    assert [layer for layer, *_ in backward.blocks()] == [2, 1, 0]
    G = backward.embeddings()["emb.weight"].H

    copies = outer["emb.weight"][torch.from_numpy(TOKENS).flatten()].requires_grad_(True)
    x, carry = module.embed({**outer, "emb.weight": copies}, torch.arange(TOKENS.size).view(TOKENS.shape)), None
    for layer in range(LAYERS):
        x, _, carry = module.block(parts.weights_of(layer), x, None, carry)
    log_p = torch.log_softmax(module.head(outer, x), -1).flatten(0, 1)
    drawn = torch.multinomial(log_p.detach().exp(), 1, generator=torch.Generator().manual_seed(SEED))
    (-log_p.gather(1, drawn)).sum().backward()
    assert copies.grad is not None
    g = copies.grad.double()
    torch.testing.assert_close(G, g.T @ g / len(g), rtol=1e-3, atol=1e-4 * float(G.abs().max()))


def test_loss_is_its_formula() -> None:
    """KL = 1/2 sum_r f_r E_r H_g E_r^T, computed token by token."""
    rng = np.random.default_rng(0)
    x, g, E = rng.normal(size=(11, 4)), rng.normal(size=(11, 6)), rng.normal(size=(3, 4))
    rows = [5, 0, 2]
    result = Sensitivity(6, 4)
    for part in (slice(0, 5), slice(5, 11)):
        result.add(torch.from_numpy(x[part]).float(), torch.from_numpy(g[part]).float())
    f = (g**2).mean(0)
    H_g = sum(np.sum(g[t] ** 2) * np.outer(x[t], x[t]) for t in range(11)) / np.sum(g**2)
    expected = 0.5 * sum(f[row] * e @ H_g @ e for row, e in zip(rows, E, strict=True))
    assert result.rows.numpy() == pytest.approx(f, rel=1e-6)
    assert result.loss(torch.from_numpy(E), torch.tensor(rows)) == pytest.approx(expected, rel=1e-5)


def test_a_token_counts_at_most_four_times_the_99th_percentile_of_its_row() -> None:
    rng = np.random.default_rng(5)
    x, g = torch.from_numpy(rng.normal(size=(2, 300, 4))).float(), torch.from_numpy(rng.normal(size=(2, 300, 6))).float()
    x[0, 17] *= 100
    g[1, 0] *= 1e6
    g[1, 299] *= 30
    squares = x.double().square()
    sizes = ((squares / squares.mean(1, keepdim=True)).sum(2) * g.double().square().sum(2)).numpy()
    most = 4 * np.percentile(sizes, 99, axis=1, keepdims=True)
    assert [int(n) for n in (sizes > most).sum(1)] == [1, 2]
    np.testing.assert_allclose(limits(g, x), np.minimum(1, most / sizes), rtol=1e-5)
    np.testing.assert_allclose(limits(g, x * torch.tensor([1, 4096, 0.125, 1])), limits(g, x), rtol=1e-6)
    np.testing.assert_allclose(limits(g, x * torch.tensor([1, 0, 0, 0])), limits(g, x[..., :1]), rtol=1e-6)
    result, expected = Sensitivity(6, 4), Sensitivity(6, 4, groups=1)
    result.add(x, g)
    factors = torch.from_numpy(np.minimum(1, most / sizes)).float()
    expected.add(x, g * factors.sqrt().unsqueeze(2))
    torch.testing.assert_close(result.rows, expected.rows, rtol=1e-4, atol=0)
    E, rows = torch.from_numpy(rng.normal(size=(6, 4))), torch.arange(6)
    assert result.loss(E, rows) == pytest.approx(expected.loss(E, rows), rel=1e-4)
    assert (limits(torch.zeros(9, 4)) == 1).all() and (limits(torch.tensor([[0.0]] * 199 + [[5.0]])) == 1).all()


def test_a_gradient_without_bound_ends_in_its_block(tmp_path: Path) -> None:
    """The answer after the first token counts a thousand times as much, which reaches its own place alone: blocks below hardly see it."""
    tokens = np.random.default_rng(3).integers(0, 64, (2, 200))
    parts = parts_of(tiny(tmp_path, "rwkv7"))[0]

    def once(x: Tensor, draws: torch.Generator, factor: float) -> Tensor:
        log_p = torch.log_softmax(x, -1)
        losses = -log_p.gather(2, torch.multinomial(log_p.detach().exp().flatten(0, 1), 1, generator=draws).view(*x.shape[:2], 1))
        return losses.sum() + (factor - 1) * losses[0, 0].sum()

    found = []
    for factor in (1.0, 1e3):
        backward = Backward(replace(parts, posterior=partial(once, factor=factor)), tokens, 2, tmp_path, SEED)
        backward.forward()
        found.append({(layer, key): float(each.rows.sum()) for layer, _, of in backward.blocks() for key, each in of.items()})
    assert max(found[1][name] / found[0][name] for name in found[0] if name[0] < LAYERS - 1 and found[0][name]) < 1.5


def test_second_moments_of_groups_are_weighted_by_the_gradients_of_their_rows() -> None:
    """GuidedQuant's matrices, token by token; that of one group is H_g but for a factor."""
    rng = np.random.default_rng(1)
    x, g = rng.normal(size=(11, 4)), rng.normal(size=(11, 7))
    for groups, parts in ((1, [range(7)]), (3, [range(3), range(3, 5), range(5, 7)])):
        result = Sensitivity(7, 4, groups=groups)
        for part in (slice(0, 5), slice(5, 11)):
            result.add(torch.from_numpy(x[part]).float(), torch.from_numpy(g[part]).float())
        expected = [sum((g[t, rows] ** 2).mean() * np.outer(x[t], x[t]) for t in range(11)) / 11 for rows in map(list, parts)]
        np.testing.assert_allclose(result.of_groups, np.array(expected), rtol=1e-4, atol=1e-6)
        if groups == 1:
            ratio = result.of_groups[0].double() / result._H_g
            np.testing.assert_allclose(ratio, np.full((4, 4), 1 / 7), rtol=1e-4)
    assert Sensitivity(2, 3, groups=4)._groups.__len__() == 2  # no more groups than rows


def test_without_a_gradient_the_loss_is_0() -> None:
    result = Sensitivity(2, 3)
    result.add(torch.ones(4, 3), torch.zeros(4, 2))
    assert result.loss(torch.ones(2, 3), torch.arange(2)) == 0.0


def test_predicted_loss_is_the_divergence_of_a_slightly_changed_model(tmp_path: Path) -> None:
    """To second order, as a mean over many draws of the tokens: within a factor of two, for errors that are independent noise."""
    checkpoint = tiny(tmp_path, "rwkv6")
    parts, module, outer = parts_of(checkpoint)
    key, layer = "ffn.value.weight", LAYERS - 1
    predicted = []
    for seed in range(8):
        at, weights, result = next(forward(parts, 5, tmp_path, seed).blocks())
        assert at == layer
        E = 0.01 * torch.randn(weights[key].shape, generator=torch.Generator().manual_seed(2))
        predicted.append(result[key].loss(E, torch.arange(len(E))))

    def log_p(change: float) -> Tensor:
        x, carry = module.embed(outer, torch.from_numpy(TOKENS)), None
        for at in range(LAYERS):
            block = parts.weights_of(at)
            if at == layer:
                block[key] = block[key] + change * E
            x, _, carry = module.block(block, x, None, carry)
        return torch.log_softmax(module.head(outer, x).double(), -1).flatten(0, 1)

    before, after = log_p(0.0), log_p(1.0)
    divergence = float((before.exp() * (before - after)).sum(1).mean())
    assert divergence / 2 < np.mean(predicted) < 2 * divergence


def test_a_block_that_overflows_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"blocks\.1\..*far too large"):
        forward(parts_of(tiny(tmp_path, "rwkv7", 1e30))[0], 2, tmp_path)


@pytest.mark.parametrize("arch", ["rwkv6", "rwkv7"])
def test_another_process_continues_after_any_block(tmp_path: Path, arch: str) -> None:
    """With exactly the numbers of a run that was never interrupted, even if the first process had begun the next block."""
    parts, expected = parts_of(tiny(tmp_path, arch))[0], {}
    for layer, _, result in forward(parts, 2, tmp_path).blocks():
        expected[layer] = {key: (each.rows, each.inputs.H) for key, each in result.items()}
    for stop in range(LAYERS, -1, -1):
        first = forward(parts, 2, tmp_path)
        blocks = first.blocks()
        for _ in range(LAYERS - stop):
            next(blocks)
        state = json.loads(json.dumps(first.state()))
        next(blocks, None)
        second = Backward(parts, TOKENS, 2, tmp_path, SEED)
        assert second.restore(state)
        seen = {layer: {key: (each.rows, each.inputs.H) for key, each in result.items()} for layer, _, result in second.blocks()}
        assert list(seen) == list(range(stop))[::-1]
        assert all(
            torch.equal(a, b) for layer in seen for key in seen[layer] for a, b in zip(seen[layer][key], expected[layer][key], strict=True)
        )


def test_files_that_have_changed_are_detected(tmp_path: Path) -> None:
    parts = parts_of(tiny(tmp_path, "rwkv7"))[0]
    state = forward(parts, 2, tmp_path).state()
    for name in ("inputs.f32", "first.f32", "gradient.0.f32", "first_gradient.0.f32"):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:-4] + b"\1\2\3\4")
        assert not Backward(parts, TOKENS, 2, tmp_path, SEED).restore(state)
        (tmp_path / name).write_bytes(whole)
    assert Backward(parts, TOKENS, 2, tmp_path, SEED).restore(state)
