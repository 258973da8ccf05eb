"""The forward multiplies weights with the activations that architectures/ names; calibration relies on it."""

import pytest
import torch
from torch.nn import functional

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.models import CheckpointSource, forward_of, linear
from tests.helpers import TEXT, random_state_dict, write_pth

B, T, C = 2, 19, 48


class Listened:
    """Two blocks and the head of a random model run once: every tap, and the real input of every matrix."""

    def __init__(self, arch, folder, monkeypatch):
        state_dict = random_state_dict(arch, layers=2, width=C, head_size=16, vocab=60)
        source = CheckpointSource(open_checkpoint(write_pth(folder / "model.pth", state_dict)))
        self.module = forward_of(arch)
        self.weights = [source.block(0), source.block(1)]
        self.globals = source.globals()
        self.taps = [{}, {}]
        self.fed = {}

        def recording_linear(x, W):
            self.fed[id(W)] = x
            return linear(x, W)

        monkeypatch.setattr(self.module, "linear", recording_linear)
        self.x = [self.module.embed(self.globals, torch.randint(60, (B, T), generator=torch.Generator().manual_seed(1)))]
        carry = None
        for weights, taps in zip(self.weights, self.taps, strict=True):
            x, _, carry = self.module.block(weights, self.x[-1], None, carry, self.listener(taps))
            self.x.append(x)
        self.head_taps = {}
        self.logits = self.module.head(self.globals, self.x[-1], self.listener(self.head_taps))

    def listener(self, taps):
        def tap(name, tensor):
            assert name not in taps, f"{name} is tapped twice"
            taps[name] = tensor

        return tap


@pytest.fixture(params=TEXT)
def listened(request, tmp_path, monkeypatch):
    return Listened(request.param, tmp_path, monkeypatch), ARCHITECTURES[request.param].table


def test_every_matrix_is_fed_by_the_tap_that_the_table_names(listened):
    run, table = listened
    for layer in (0, 1):
        for spec in table:
            if spec.input is None or (spec.layers == "later" and layer == 0):
                continue
            for suffix in [f".{i}" for i in range(5)] if spec.slices else [""]:
                tapped = run.taps[layer][spec.input]
                fed = run.fed[id(run.weights[layer][spec.name + suffix])]
                assert torch.equal(fed, tapped[int(suffix[1:])] if suffix else tapped), spec.name + suffix


def test_the_head_is_fed_by_its_tap(listened):
    run, _ = listened
    assert torch.equal(run.fed[id(run.globals["head.weight"])], run.head_taps["head.x"])
    assert torch.equal(run.logits, linear(run.head_taps["head.x"], run.globals["head.weight"]))


def test_no_tap_is_missing_and_none_is_unknown(listened):
    run, table = listened
    for layer in (0, 1):
        named = {n for spec in table if not (spec.layers == "later" and layer == 0) for n in (spec.input, spec.partner) if n is not None}
        assert set(run.taps[layer]) == named


def test_shift_delta_is_the_previous_token_minus_the_current_one(listened):
    run, _ = listened
    for layer, (weights, taps) in enumerate(zip(run.weights, run.taps, strict=True)):
        x = functional.layer_norm(run.x[layer], (C,), weights["ln1.weight"], weights["ln1.bias"])
        previous = torch.cat([torch.zeros(B, 1, C), x[:, :-1]], dim=1)
        torch.testing.assert_close(taps["att.shift_delta"], previous - x)
        x = functional.layer_norm(
            run.x[layer] + linear(taps["att.out"], weights["att.output.weight"]), (C,), weights["ln2.weight"], weights["ln2.bias"]
        )
        previous = torch.cat([torch.zeros(B, 1, C), x[:, :-1]], dim=1)
        torch.testing.assert_close(taps["ffn.shift_delta"], previous - x)


@pytest.mark.parametrize("layer", [0, 1])
def test_partners_of_rwkv7_key_vectors_are_their_products(layer, tmp_path, monkeypatch):
    run = Listened("rwkv7", tmp_path, monkeypatch)
    weights, taps = run.weights[layer], run.taps[layer]
    r, k = (linear(taps[f"att.x{c}"], weights[f"att.{name}.weight"]) for c, name in (("r", "receptance"), ("k", "key")))
    a = torch.sigmoid(weights["att.a0"] + linear(taps["att.a_hidden"], weights["att.a2"]))
    torch.testing.assert_close(taps["att.k"], k)
    torch.testing.assert_close(taps["att.k_times_a_minus_1"], k * (a - 1))
    r_times_k = r * (k * (1 + (a - 1) * weights["att.k_a"]))
    torch.testing.assert_close(taps["att.r_times_k"], r_times_k.view(B, T, -1, 16))


def test_the_maa_hidden_of_rwkv6_is_tapped_once_with_its_five_slices_first(tmp_path, monkeypatch):
    run = Listened("rwkv6", tmp_path, monkeypatch)
    assert run.taps[0]["att.maa_hidden"].shape == (5, B, T, 8)
