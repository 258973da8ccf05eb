import dataclasses

import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.models import CheckpointSource, PackedSource, QuantizedMatrix, TorchModel
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint

TOKENIZER = TokenizerData("bytes", {"size": 60})
TOKENS = torch.tensor([[0, 5, 7, 59, 3, 3], [0, 1, 2, 3, 4, 5]])


@pytest.fixture(scope="module", params=["rwkv7", "rwkv6"])
def path(request, tmp_path_factory):
    state_dict = random_state_dict(request.param, layers=2, width=48, head_size=16, vocab=60, time_state=True)
    return write_pth(tmp_path_factory.mktemp("model") / f"{request.param}.pth", state_dict)


def pack(path, tmp_path, **options):
    return PackedSource(open_packed(pack_checkpoint(path, tmp_path / "packed.safetensors", TOKENIZER, **options)))


def same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_dense_packed_file_gives_the_weights_of_its_checkpoint(path, tmp_path):
    checkpoint, packed = CheckpointSource(open_checkpoint(path)), pack(path, tmp_path)
    assert (packed.arch, packed.dims) == (checkpoint.arch, checkpoint.dims)
    same(packed.globals(), checkpoint.globals())
    for layer in (0, 1):
        same(packed.block(layer), checkpoint.block(layer))


def test_matrices_are_out_by_in_and_vectors_flat(path):
    source = CheckpointSource(open_checkpoint(path))
    assert set(source.globals()) == {"emb.weight", "head.weight"} | {
        f"{n}.{p}" for n in ("blocks.0.ln0", "ln_out") for p in ("weight", "bias")
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in source.block(1).items()}
    stored = open_checkpoint(path).tensors
    assert shapes["ln1.weight"] == (48,)
    assert shapes["ffn.key.weight"] == (192, 48)
    assert shapes["att.time_state"] == (3, 16, 16)
    if source.arch == "rwkv7":
        assert shapes["att.x_r"] == shapes["att.w0"] == (48,)
        assert shapes["att.r_k"] == (3, 16)
        assert (stored["blocks.1.att.w1"].shape, shapes["att.w1"]) == ((48, 16), (16, 48))
        assert "att.v1" in shapes and "att.v1" not in source.block(0)
    else:
        assert shapes["att.time_maa_w1"] == (5 * 8, 48)
        assert [shapes[f"att.time_maa_w2.{i}"] for i in range(5)] == [(48, 8)] * 5
        assert torch.equal(source.block(1)["att.time_maa_w2.3"], torch.load(path)["blocks.1.att.time_maa_w2"][3].T)


def test_quantised_weights_run_as_their_decoded_values_do(path, tmp_path):
    source = pack(path, tmp_path, bits=4)
    assert isinstance(source.block(0)["ffn.key.weight"], QuantizedMatrix)
    assert isinstance(source.globals()["emb.weight"], QuantizedMatrix)

    class Decoded:
        arch, dims = source.arch, source.dims

        def globals(self):
            return self.decoded(source.globals())

        def block(self, layer):
            return self.decoded(source.block(layer))

        def decoded(self, weights):
            return {name: W.decode() if isinstance(W, QuantizedMatrix) else W for name, W in weights.items()}

    assert torch.equal(TorchModel(source).forward(TOKENS)[0], TorchModel(Decoded()).forward(TOKENS)[0])


def test_four_bits_change_the_logits_a_little(path, tmp_path):
    exact = TorchModel(CheckpointSource(open_checkpoint(path))).forward(TOKENS)[0]
    quantised = TorchModel(pack(path, tmp_path, bits=4)).forward(TOKENS)[0]
    change = (quantised - exact).square().mean() / exact.square().mean()
    assert 1e-4 < change < 0.5


def test_a_missing_tensor_is_named(path, tmp_path):
    source = pack(path, tmp_path, leave_out="blocks.1.ln2.bias")
    source.block(0)
    with pytest.raises(FormatError, match=r"2 layers has the tensor blocks\.1\.ln2\.bias; this file lacks it"):
        source.block(1)


def test_a_shape_that_contradicts_the_sizes_is_named(path, tmp_path):
    source = pack(path, tmp_path)
    source.dims = dataclasses.replace(source.dims, hidden=100)
    with pytest.raises(FormatError, match=r"ffn\.key\.weight must have the shape \(100, 48\) by the model's sizes; got \(192, 48\)"):
        source.block(0)


def test_weights_are_read_once(path):
    class Counting(CheckpointSource):
        reads = 0

        def block(self, layer):
            self.reads += 1
            return super().block(layer)

    source = Counting(open_checkpoint(path))
    model = TorchModel(source)
    model.forward(TOKENS)
    model.forward(TOKENS)
    assert source.reads == 2
