import numpy as np
import pytest
import torch

from rwkvquant.architectures import ARCHITECTURES
from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import TokenizerError
from rwkvquant.kernels import rwkv6, rwkv7
from rwkvquant.models import CheckpointSource, TorchModel
from rwkvquant.models.wkv import CHUNK
from tests.helpers import random_state_dict, write_pth
from tests.kernels.step_weights import state_sizes, step_weights

STEPS = {"rwkv7": rwkv7.step, "rwkv6": rwkv6.step}
TOKENS = 2 * CHUNK + 3
TOLERANCE = dict(rtol=1e-5, atol=1e-5)  # logits are near 1


@pytest.fixture(scope="module", params=["rwkv7", "rwkv6"])
def state_dict(request):
    return random_state_dict(request.param, layers=2, width=48, head_size=16, vocab=60, time_state=True)


@pytest.fixture(scope="module")
def model(state_dict, tmp_path_factory):
    return TorchModel(CheckpointSource(open_checkpoint(write_pth(tmp_path_factory.mktemp("model") / "model.pth", state_dict))))


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(60, (3, TOKENS), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def whole(model, tokens):
    return model.forward(tokens)


@pytest.mark.parametrize("split", range(1, TOKENS))
def test_a_sequence_may_be_split_anywhere(split, model, tokens, whole):
    first, state = model.forward(tokens[:, :split])
    second, state = model.forward(tokens[:, split:], state)
    torch.testing.assert_close((torch.cat([first, second], dim=1), state), whole, **TOLERANCE)


def test_token_by_token_is_the_sequence(model, tokens, whole):
    state, rows = None, []
    for t in range(TOKENS):
        logits, state = model.forward(tokens[:, t : t + 1], state)
        rows.append(logits)
    torch.testing.assert_close((torch.cat(rows, dim=1), state), whole, **TOLERANCE)


def test_a_batch_is_its_sequences(model, tokens, whole):
    for i in range(len(tokens)):
        logits, state = model.forward(tokens[i : i + 1])
        torch.testing.assert_close(logits, whole[0][i : i + 1], **TOLERANCE)
        for mine, all_of_them in zip(state, whole[1], strict=True):
            torch.testing.assert_close(mine, tuple(x[i : i + 1] for x in all_of_them), **TOLERANCE)


def test_the_numpy_step_gives_the_same_logits_and_the_same_state(model, state_dict, tokens, whole):
    weights = step_weights(state_dict)
    state = ARCHITECTURES[model.arch].zero_state(state_sizes(weights), batch=len(tokens))
    state.wkv[:] = [weights[f"blocks.{layer}.att.time_state"][None] for layer in range(len(state.wkv))]
    for t in range(TOKENS):
        logits, state = STEPS[model.arch](weights, weights["emb.weight"][tokens[:, t]], state)
        np.testing.assert_allclose(logits, whole[0][:, t], **TOLERANCE)
    for i, name in enumerate(("att_shift", "ffn_shift", "wkv")):
        np.testing.assert_allclose(getattr(state, name), np.stack([block[i] for block in whole[1]]), **TOLERANCE)


def test_a_state_is_not_changed(model, tokens, whole):
    _, state = whole
    before = [[x.clone() for x in block] for block in state]
    first, _ = model.forward(tokens, state)
    again, _ = model.forward(tokens, state)
    assert torch.equal(first, again)
    assert all(torch.equal(x, y) for block, copies in zip(state, before, strict=True) for x, y in zip(block, copies, strict=True))


def test_reading_begins_with_the_tuned_state_and_does_not_change_it(model, state_dict, tokens, whole):
    assert torch.equal(model.forward(tokens)[0], whole[0])
    zero = [tuple(torch.zeros_like(x) for x in block) for block in whole[1]]
    assert not torch.allclose(model.forward(tokens, zero)[0][:, 0], whole[0][:, 0], atol=1e-3)
    tuned = [(a, f, state_dict[f"blocks.{i}.att.time_state"].expand_as(S)) for i, (a, f, S) in enumerate(zero)]  # [value, key]
    torch.testing.assert_close(model.forward(tokens, tuned)[0], whole[0], **TOLERANCE)


def test_a_token_outside_of_the_vocabulary_is_refused(model):
    with pytest.raises(TokenizerError, match="tokens must lie in 0 to 59; got 3 to 60"):
        model.forward(torch.tensor([[3, 60]]))
