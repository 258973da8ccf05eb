"""A session reads what the file says, forwards as the independent package does, and never changes a state it was given."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rwkvquant.checkpoints import open_checkpoint
from rwkvquant.errors import CheckpointError, ConfigError, FormatError, TokenizerError
from rwkvquant.formats.container import open_packed
from rwkvquant.results import GenerateResult
from rwkvquant.runtime.chat import Chat
from rwkvquant.runtime.sampling import SamplingConfig, SamplingOptions
from rwkvquant.runtime.session import Model, is_packed, load, logits_hash
from rwkvquant.runtime.states.files import State
from rwkvquant.runtime.tokenizer import load_tokenizer
from tests.helpers import random_state_dict, write_pth
from tests.runtime.packing import pack_checkpoint

DATA = Path(__file__).parents[1] / "data"
TINY, TOKENIZER = DATA / "rwkv7-tiny.pth", DATA / "tokenizer.json"
JUDGE = Path(__file__).parents[1] / "models" / "rwkv_package.py"
BYTES = load_tokenizer("bytes", 256).to_data()
GREEDY = SamplingConfig(temperature=0)
TOKENS = [0, 7, 7, 200, 31, 5, 90]
both = pytest.mark.parametrize("arch", ["rwkv7", "rwkv6"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random checkpoints of both architectures, odd in every size, and the same packed in float32."""
    folder = tmp_path_factory.mktemp("session")
    for arch in ("rwkv7", "rwkv6"):
        state_dict = random_state_dict(arch, layers=3, width=48, head_size=16, hidden=80, ranks={"Rm": 5, "Rw": 7, "Rd": 9}, seed=3)
        write_pth(folder / f"{arch}.pth", state_dict)
        pack_checkpoint(folder / f"{arch}.pth", folder / f"{arch}.safetensors", BYTES)
    return folder


@pytest.fixture(scope="module")
def tiny() -> Model:
    return load(TINY, tokenizer=str(TOKENIZER))


@pytest.fixture(scope="module")
def tiny_packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("packed") / "tiny.safetensors"
    return pack_checkpoint(TINY, target, load_tokenizer(TOKENIZER, 4096).to_data(), bits=8)


@both
def test_logits_are_those_of_the_rwkv_package(folder: Path, tmp_path: Path, arch: str) -> None:
    checkpoint = TINY if arch == "rwkv7" else folder / "rwkv6.pth"
    job = {"checkpoint": str(checkpoint), "tokens": TOKENS, "logits": str(tmp_path / "logits.npy")}
    (tmp_path / "jobs.json").write_text(json.dumps([job]))
    subprocess.run([sys.executable, JUDGE, arch, tmp_path / "jobs.json"], check=True, capture_output=True)
    expected = np.load(tmp_path / "logits.npy")
    logits, _ = load(checkpoint).forward(TOKENS, logits="all")
    assert np.abs(logits - expected).max() < 1e-3 * np.abs(expected).max()


@both
def test_a_packed_file_of_full_precision_gives_the_checkpoints_logits_to_the_bit(folder: Path, arch: str) -> None:
    original, packed = load(folder / f"{arch}.pth"), load(folder / f"{arch}.safetensors")
    assert (packed.arch, packed.dims) == (original.arch, original.dims)
    np.testing.assert_array_equal(packed.forward(TOKENS)[0], original.forward(TOKENS)[0])


def test_a_quantised_file_gives_the_logits_of_its_decoded_weights(tiny_packed: Path, tmp_path: Path) -> None:
    packed = open_packed(tiny_packed)
    decoded = {}
    for name, info in open_checkpoint(TINY).tensors.items():
        entry = packed.tensors.get(name)
        if entry is not None:
            values = packed.qtensor(name).decode()
            decoded[name] = torch.from_numpy((values.T if entry.transposed else values).reshape(info.shape).copy())
    write_pth(tmp_path / "decoded.pth", decoded)
    expected, _ = load(tmp_path / "decoded.pth").forward(TOKENS)
    logits, _ = load(tiny_packed, activations="float32").forward(TOKENS)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    original, _ = load(TINY).forward(TOKENS)
    assert 0 < np.abs(logits - original).max() < 0.05 * np.abs(original).max()  # 8 bits: near, and not the original itself


def test_content_decides_and_not_the_name(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "packed.pth").write_bytes((folder / "rwkv7.safetensors").read_bytes())
    (tmp_path / "checkpoint.safetensors").write_bytes((folder / "rwkv7.pth").read_bytes())
    assert is_packed(tmp_path / "packed.pth") and not is_packed(tmp_path / "checkpoint.safetensors")
    packed, checkpoint = load(tmp_path / "packed.pth"), load(tmp_path / "checkpoint.safetensors")
    np.testing.assert_array_equal(packed.forward(TOKENS)[0], checkpoint.forward(TOKENS)[0])


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Once upon a time")
    for path in (tmp_path / "nowhere.pth", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(CheckpointError, match=str(path)):
            load(path)


def test_a_packed_file_that_lacks_a_tensor_is_refused_by_its_name(folder: Path, tmp_path: Path) -> None:
    for arch, name in (("rwkv7", "blocks.1.att.v2"), ("rwkv6", "blocks.2.att.time_maa_w2"), ("rwkv7", "ln_out.bias")):
        pack_checkpoint(folder / f"{arch}.pth", tmp_path / "short.safetensors", BYTES, leave_out=name)
        with pytest.raises(FormatError, match=f"has the tensor {name}; this file lacks it"):
            load(tmp_path / "short.safetensors")


@both
def test_all_logits_are_the_last_logits_of_every_beginning(folder: Path, arch: str) -> None:
    model = load(folder / f"{arch}.pth")
    every, _ = model.forward(TOKENS, logits="all")
    assert every.shape == (len(TOKENS), 256) and every.dtype == np.float32
    for length in range(1, len(TOKENS) + 1):
        np.testing.assert_array_equal(every[length - 1], model.forward(TOKENS[:length])[0])


@both
def test_reading_in_pieces_is_reading_at_once_and_leaves_states_alone(folder: Path, arch: str) -> None:
    model = load(folder / f"{arch}.pth")
    expected, _ = model.forward(TOKENS)
    _, middle = model.forward(TOKENS[:3])
    kept = middle.copy()
    for _ in range(2):  # the second time from the same state: it has not moved
        np.testing.assert_array_equal(model.forward(TOKENS[3:], middle)[0], expected)
    _equal(middle, kept)


@both
def test_sequences_side_by_side_are_each_as_if_alone(folder: Path, arch: str) -> None:
    model = load(folder / f"{arch}.pth")
    sequences = [[5], [1, 2, 3, 4, 5, 6], [9, 9, 9], [7, 8, 200, 3, 1, 2]]
    states = [None, model.forward([40, 41])[1], None, model.forward([3])[1]]
    kept = [state and state.copy() for state in states]
    logits, after = model.forward_batch(sequences, states)
    every, _ = model.forward_batch(sequences, states, logits="all")
    assert logits.shape == (4, 256)
    for i, sequence in enumerate(sequences):
        alone, state = model.forward(sequence, states[i], logits="all")
        np.testing.assert_array_equal(logits[i], alone[-1])
        np.testing.assert_array_equal(every[i], alone)
        _equal(after[i], state)
        if kept[i] is not None:
            _equal(states[i], kept[i])


@both
def test_a_tuned_state_is_where_reading_begins(tmp_path: Path, arch: str) -> None:
    state_dict = random_state_dict(arch, time_state=True, seed=5)
    path = write_pth(tmp_path / "tuned.pth", state_dict)
    tuned = load(path)
    without = load(write_pth(tmp_path / "plain.pth", {n: t for n, t in state_dict.items() if "time_state" not in n}))
    begin = without.initial_state()
    for layer in range(2):
        begin.recurrent.wkv[layer, 0] = state_dict[f"blocks.{layer}.att.time_state"].numpy()
    np.testing.assert_array_equal(tuned.forward(TOKENS)[0], without.forward(TOKENS, begin)[0])
    assert not np.allclose(tuned.forward(TOKENS)[0], without.forward(TOKENS)[0])
    packed = load(pack_checkpoint(path, tmp_path / "tuned.safetensors", BYTES))
    np.testing.assert_array_equal(packed.forward(TOKENS)[0], tuned.forward(TOKENS)[0])


def test_bad_arguments_are_refused_in_one_sentence(folder: Path) -> None:
    model, other = load(folder / "rwkv7.pth"), load(folder / "rwkv6.pth")
    bad: list[tuple[type[Exception], str, Any]] = [
        (ConfigError, "at least one token", lambda: model.forward([])),
        (ConfigError, "at least one token", lambda: model.forward_batch([[1], []])),
        (ConfigError, "at least one sequence", lambda: model.forward_batch([])),
        (ConfigError, "one state a sequence; got 1 states for 2", lambda: model.forward_batch([[1], [2]], [None])),
        (ConfigError, '"last" or "all"; got \'lats\'', lambda: model.forward([1], logits="lats")),  # type: ignore[arg-type]
        (TokenizerError, "0 to 255; got 256", lambda: model.forward([3, 256])),
        (TokenizerError, "0 to 255; got -1", lambda: model.forward([-1])),
        (FormatError, "this one is of rwkv6", lambda: model.forward([1], other.initial_state())),
        (ConfigError, "empty one", lambda: model.generate("", state=model.initial_state())),
        (ConfigError, "at least one character; got ''", lambda: model.generate("a", stop="")),
        (ConfigError, "at least one character; got ''", lambda: list(model.stream("a", stop=["b", ""]))),
    ]
    for error, message, call in bad:
        with pytest.raises(error, match=message):
            call()


def test_a_real_model_reads_english_better_than_shuffled_english(tiny: Model) -> None:
    text = "It was a fine morning, and the old man walked slowly down to the river with his dog."
    words = text.split()
    shuffled = " ".join(words[i] for i in np.random.default_rng(0).permutation(len(words)))
    assert _nats_per_token(tiny, text) < 5.5  # a uniform guess is log 4096 = 8.3
    assert _nats_per_token(tiny, text) < _nats_per_token(tiny, shuffled) - 0.3


def test_a_stream_is_the_generated_text_and_ends_where_it_is_told(tiny: Model) -> None:
    result = tiny.generate("The old man", max_tokens=20, sampling=GREEDY)
    assert "".join(tiny.stream("The old man", max_tokens=20, sampling=GREEDY)) == result.text
    assert 0 < len(result.tokens) <= 20
    assert result.text == tiny.tokenizer.decode(result.tokens)
    expected, state = [], None
    logits, state = tiny.forward([0, *tiny.tokenizer.encode("The old man")])
    for token in result.tokens:  # by definition: always the likeliest next token
        assert token == logits.argmax()
        expected = logits
        logits, state = tiny.forward([token], state)
    assert result.logits_hash == logits_hash(expected)


def test_sampling_is_the_same_for_the_same_seed(tiny: Model) -> None:
    def text(seed: int) -> str:
        return tiny.generate("Once", max_tokens=12, sampling=SamplingConfig(temperature=1, top_p=1, seed=seed)).text

    assert text(1) == text(1) != text(2)


def test_token_0_comes_first_unless_there_is_a_state_or_a_wish(tiny: Model) -> None:
    plain, ids = tiny.generate("Once", max_tokens=0).logits_hash, tiny.tokenizer.encode("Once")
    assert plain == logits_hash(tiny.forward([0, *ids])[0])
    assert tiny.generate(ids, max_tokens=0).logits_hash == plain
    assert tiny.generate("Once", max_tokens=0, end_of_text_first=False).logits_hash == logits_hash(tiny.forward(ids)[0])
    _, state = tiny.forward([5])
    assert tiny.generate("Once", max_tokens=0, state=state).logits_hash == logits_hash(tiny.forward(ids, state)[0])
    with_0 = logits_hash(tiny.forward([0, *ids], state)[0])
    assert tiny.generate("Once", max_tokens=0, state=state, end_of_text_first=True).logits_hash == with_0


def test_generation_stops_at_token_0_and_does_not_show_it(tmp_path: Path) -> None:
    state_dict = random_state_dict("rwkv7", layers=1, seed=1)
    state_dict["head.weight"].zero_()  # all logits equal: greedy takes the lowest id, the end of the text
    model = load(write_pth(tmp_path / "ends.pth", state_dict))
    assert list(model.stream("abc", sampling=GREEDY)) == []
    nothing = GenerateResult("", (), "stop", logits_hash(np.zeros(256, np.float32)), 7)
    assert model.generate("abc", sampling=SamplingConfig(temperature=0, seed=7)) == nothing


def test_generation_ends_before_a_stop_string_and_says_why_it_ended(tiny: Model) -> None:
    greedy = SamplingConfig(temperature=0, seed=0)
    whole = tiny.generate("The old man", max_tokens=20, sampling=greedy)
    assert whole.finish_reason == "length"
    assert tiny.generate("The old man", max_tokens=0).finish_reason == "length"
    for begin, length in ((1, 1), (4, 3), (9, 8)):  # also within and across tokens
        stop = whole.text[begin : begin + length]
        result = tiny.generate("The old man", max_tokens=20, sampling=greedy, stop=["never", stop])
        assert result.text == whole.text.split(stop)[0] and result.finish_reason == "stop"
        assert "".join(tiny.stream("The old man", max_tokens=20, sampling=greedy, stop=stop)) == result.text
        assert result.tokens == whole.tokens[: len(result.tokens)]
        assert stop in tiny.tokenizer.decode(result.tokens)  # the ids of the stop string are there
        assert stop not in tiny.tokenizer.decode(result.tokens[:-1])  # and it was seen at once
    never = tiny.generate("The old man", max_tokens=20, sampling=greedy, stop=whole.text[-3:] + "never")
    assert never == whole  # what was held back to the end is passed on


def test_the_hash_is_the_documented_one() -> None:
    logits = np.array([1.0, -2.5], np.float32)
    assert logits_hash(logits) == hashlib.sha256(b"\x00\x00\x80\x3f\x00\x00\x20\xc0").hexdigest()[:16]
    assert logits_hash(np.nextafter(logits, 9)) != logits_hash(logits)


def test_the_tokenizer_is_the_one_given_or_packed_or_next_to_it_or_usual(tiny_packed: Path, folder: Path, tmp_path: Path) -> None:
    text = "The old man"
    assert load(tiny_packed).tokenizer.encode(text) == load_tokenizer(TOKENIZER, 4096).encode(text)
    assert load(tiny_packed, tokenizer="bytes").tokenizer.encode("AB") == [65, 66]
    assert load(folder / "rwkv7.pth").tokenizer.encode("AB") == [65, 66]
    assert load(TINY).tokenizer.encode(text) == load_tokenizer(TOKENIZER, 4096).encode(text)
    unknown = load(shutil.copy(TINY, tmp_path))
    assert unknown.forward([1])[0].shape == (4096,)  # tokens need no tokenizer
    with pytest.raises(TokenizerError, match="--tokenizer FILE"):
        list(unknown.stream("text"))
    with pytest.raises(TokenizerError, match="at most the model's 256 ids"):
        load(folder / "rwkv7.pth", tokenizer=str(TOKENIZER))


def test_a_packed_file_speaks_where_torch_cannot_be_imported(tiny_packed: Path) -> None:
    script = f"""
import sys
sys.modules["torch"] = None  # from here on, importing torch raises
import rwkvquant
from rwkvquant.runtime.sampling import SamplingConfig
model = rwkvquant.load({str(tiny_packed)!r})
logits, state = model.forward([0, 12, 7])
model.forward_batch([[1], [2, 3]], [state, None])
sys.stdout.buffer.write("".join(model.stream("The old man", max_tokens=5, sampling=SamplingConfig(seed=0))).encode())
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "".join(load(tiny_packed).stream("The old man", max_tokens=5, sampling=SamplingConfig(seed=0)))


def _nats_per_token(model: Model, text: str) -> float:
    ids = [0, *model.tokenizer.encode(text)]
    logits, _ = model.forward(ids[:-1], logits="all")
    logits = logits.astype(np.float64)
    normalisers = np.log(np.exp(logits - logits.max(axis=1, keepdims=True)).sum(axis=1)) + logits.max(axis=1)
    return float((normalisers - logits[np.arange(len(ids) - 1), ids[1:]]).mean())


def _equal(a: State, b: State) -> None:
    for name in ("att_shift", "ffn_shift", "wkv"):
        np.testing.assert_array_equal(getattr(a.recurrent, name), getattr(b.recurrent, name))


@pytest.mark.parametrize(
    "tokens",
    [[1.9, 2.5], np.array([1.7, 2.2]), [True, False], np.zeros((2, 2), np.int64), ["1"], b"hello", "hello", np.array([1.0])],
    ids=["floats", "float array", "booleans", "two dimensions", "strings", "bytes", "text", "whole floats"],
)
def test_what_is_no_integer_is_never_taken_for_a_token(tokens: Any) -> None:
    model = load(DATA / "rwkv7-tiny-rtn4.safetensors", threads=1)
    calls = [lambda: model.forward(tokens), lambda: model.forward_batch([tokens])]
    if not isinstance(tokens, str):
        calls.append(lambda: model.generate(tokens, max_tokens=1))
    for call in calls:
        with pytest.raises(TokenizerError, match="integer"):
            call()


def test_integers_of_numpy_and_torch_are_tokens() -> None:
    model = load(DATA / "rwkv7-tiny-rtn4.safetensors", threads=1)
    expected, _ = model.forward([5, 6])
    for tokens in (np.array([5, 6], np.uint16), [np.int32(5), np.int64(6)], torch.tensor([5, 6]), (5, 6)):
        assert (model.forward(tokens)[0] == expected).all()


def test_without_a_seed_every_call_says_something_else_and_tells_how_to_repeat_it() -> None:
    model = load(DATA / "rwkv7-tiny-rtn4.safetensors", threads=1)
    hot = {"temperature": 2.0, "top_p": 1.0}
    said = [model.generate([1, 2], max_tokens=12, sampling=SamplingConfig(**hot)) for _ in range(4)]
    assert len({each.tokens for each in said}) == 4
    for each in said:
        assert model.generate([1, 2], max_tokens=12, sampling=SamplingConfig(**hot, seed=each.seed)) == each


def test_single_options_are_the_config_that_has_them(tiny: Model) -> None:
    options: dict[str, Any] = {"temperature": 2.0, "top_p": 0.9, "top_k": 40, "min_p": 0.01, "presence_penalty": 0.1, "seed": 5}
    options |= {"frequency_penalty": 0.2, "penalty_decay": 0.9}
    assert set(options) == {field.name for field in dataclasses.fields(SamplingConfig)} == set(SamplingOptions.__annotations__)
    config = SamplingConfig(**options)
    assert tiny.generate("Once", max_tokens=8, **options) == tiny.generate("Once", max_tokens=8, sampling=config)
    assert list(tiny.stream("Once", max_tokens=8, **options)) == list(tiny.stream("Once", max_tokens=8, sampling=config))
    assert Chat(tiny, max_tokens=8, **options).answer("Hi") == Chat(tiny, config, max_tokens=8).answer("Hi")


def test_an_option_that_cannot_be_is_refused(tiny: Model) -> None:
    for call in (tiny.generate, lambda prompt, **options: list(tiny.stream(prompt, **options)), lambda _, **options: Chat(tiny, **options)):
        with pytest.raises(ConfigError, match=r"the sampling options are temperature, .*min_p; got topk"):
            call("Once", topk=3)
        with pytest.raises(ConfigError, match=r"either sampling=SamplingConfig\(\.\.\.\) or single options; got both, with top_k"):
            call("Once", sampling=SamplingConfig(), top_k=3)
        with pytest.raises(ConfigError, match="top_k must be a whole number"):
            call("Once", top_k=-1)
