"""A tokenizer.json that our reader cannot express is kept whole, and gives the ids and texts of the `tokenizers` package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Package

import rwkvquant
from rwkvquant.errors import TokenizerError
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.runtime.tokenizer import Tokenizer, from_data, load_tokenizer
from rwkvquant.runtime.tokenizer_bpe import BpeTokenizer
from rwkvquant.runtime.tokenizer_file import HARD, parse
from rwkvquant.runtime.tokenizer_package import WINDOW
from tests.helpers import random_state_dict, write_pth
from tests.runtime.trained_tokenizers import IDS, OTHERS, package_of, trained

FILE = Path(__file__).parents[1] / "data" / "tokenizer.json"
INSTALLS = r"pip install 'rwkv-hybridquant\[tokenizers\]'"
every_kind = pytest.mark.parametrize("kind", OTHERS)
TEXTS = st.text(max_size=60) | st.from_regex(r"([a-zA-Z]{1,9}('ll|'s)?[ \n\t]{0,3}[0-9.,;:]{0,3}){0,12}", fullmatch=True)
MARKED = st.text(alphabet=" \n\tab1²٣Ⅷİßé\u0301中한ไ😀🏽\u200d\u00a0\ufb01▁#<>/s[]", max_size=60)


@pytest.fixture(scope="module")
def pairs() -> dict[str, tuple[Tokenizer, Package]]:
    """Ours, stored and read again, and the package's."""
    found = {}
    for kind in OTHERS:
        data = parse(trained(kind), IDS, kind, ()).to_data()
        assert data.kind == "json"
        found[kind] = from_data(data, IDS), package_of(kind)
    return found


@every_kind
@settings(max_examples=100, deadline=None)
@given(text=TEXTS | MARKED)
def test_ids_and_texts_are_the_packages(pairs: dict[str, tuple[Tokenizer, Package]], kind: str, text: str) -> None:
    ours, package = pairs[kind]
    ids = ours.encode(text)
    assert ids == package.encode(text, add_special_tokens=False).ids
    assert ours.decode(ids) == package.decode(ids)
    assert ours.decode_bytes(ids).decode() == package.decode(ids)


@every_kind
def test_hard_texts_have_the_packages_ids(pairs: dict[str, tuple[Tokenizer, Package]], kind: str) -> None:
    ours, package = pairs[kind]
    for text in HARD:
        assert ours.encode(text) == package.encode(text, add_special_tokens=False).ids


@every_kind
@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_a_stream_of_any_ids_adds_up_to_what_decode_makes_of_them(
    pairs: dict[str, tuple[Tokenizer, Package]], kind: str, data: st.DataObject
) -> None:
    ours, _ = pairs[kind]
    ids = data.draw(st.lists(st.integers(0, IDS - 1), max_size=3 * WINDOW))
    decoder = ours.stream_decoder()
    text = "".join([*map(decoder.push, ids), decoder.finish()])
    assert text == ours.decode(ids) or "\ufffd" in ours.decode(ids)


@every_kind
def test_a_long_stream_decodes_a_bounded_number_of_ids_for_each_new_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = parse(trained(kind), IDS, kind, ())
    ids = ours.encode("".join(HARD[:3]) * 20 + "😀" * 50 + "龘" * 50 + HARD[0])  # 4 and 3 bytes
    expected, longest = ours.decode(ids), 0
    plain = ours.decode

    def counted(some: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(some))
        return plain(some)

    monkeypatch.setattr(ours, "decode", counted)
    decoder = ours.stream_decoder()
    assert "".join([*map(decoder.push, ids), decoder.finish()]) == expected
    assert len(ids) > 3 * WINDOW and longest < 2 * WINDOW


@every_kind
@settings(max_examples=50, deadline=None)
@given(text=TEXTS, cut=st.integers(0, 30))
def test_a_stream_that_continues_a_text_keeps_the_first_space(
    pairs: dict[str, tuple[Tokenizer, Package]], kind: str, text: str, cut: int
) -> None:
    ours, _ = pairs[kind]
    ids = ours.encode("The old man " + text)
    cut = min(cut + 2, len(ids))
    decoder = ours.stream_decoder(after=ids[:cut])
    rest = "".join([*map(decoder.push, ids[cut:]), decoder.finish()])
    before = ours.decode(ids[:cut])
    assert before + rest == ours.decode(ids) or before.endswith("\ufffd")


def test_a_stream_continues_a_text_of_characters_of_several_tokens(pairs: dict[str, tuple[Tokenizer, Package]]) -> None:
    for kind in ("byte fallback", "GPT-4"):
        ours, _ = pairs[kind]
        ids = ours.encode("龘" * 20)
        for cut in range(len(ids) - 30, len(ids) - 2):
            whole = len(ours.decode(ids[:cut]).rstrip("\ufffd"))
            decoder = ours.stream_decoder(after=ids[:cut])
            if "\ufffd" not in ours.decode(ids[:cut]):
                assert "".join(map(decoder.push, ids[cut:])) == "龘" * (20 - whole)


def test_generated_text_follows_the_prompt_with_its_space(tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64, vocab=600, first_layer_v=False))
    write(tmp_path, "unigram")
    model = rwkvquant.load(tmp_path / "model.pth", threads=1)
    prompt = model.tokenizer.encode("The old")
    for seed in range(5):
        result = model.generate("The old", max_tokens=12, seed=seed)
        assert "The old" + result.text == model.tokenizer.decode([*prompt, *result.tokens])
        assert "".join(model.stream("The old", max_tokens=12, seed=seed)) == result.text


def test_a_chat_answers_with_the_space_after_its_prompt(tmp_path: Path) -> None:
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64, vocab=600, first_layer_v=False))
    write(tmp_path, "unigram")
    model = rwkvquant.load(tmp_path / "model.pth", threads=1)
    for seed in range(5):
        chat = rwkvquant.Chat(model, max_tokens=12, seed=seed)
        answer = "".join(piece.text for piece in chat.pieces("The old man"))
        prompt = chat.template.render([{"role": "user", "content": "The old man"}], None, True)
        generated = model.generate(prompt, max_tokens=12, seed=seed)
        assert answer == generated.text


@pytest.mark.parametrize("kind", ["byte fallback", "GPT-4"])
def test_a_character_of_several_tokens_waits_until_it_is_whole(pairs: dict[str, tuple[Tokenizer, Package]], kind: str) -> None:
    ours, _ = pairs[kind]
    ids = ours.encode("a😀b")
    decoder = ours.stream_decoder()
    pieces, waits = [], []
    for token in ids:
        pieces.append(decoder.push(token))
        waits.append(decoder.within_character)
    assert "".join(pieces) == "a😀b" and not any("\ufffd" in piece for piece in pieces)
    assert waits == [False, True, True, True, False, False] if kind == "GPT-4" else sum(waits) == 3
    decoder = ours.stream_decoder()
    assert "".join(map(decoder.push, ids[:-2])) == "a"
    assert decoder.finish().strip("\ufffd") == "" and decoder.finish() == ""


@every_kind
def test_special_tokens_are_plain_text_and_decode_to_nothing(pairs: dict[str, tuple[Tokenizer, Package]], kind: str) -> None:
    ours, package = pairs[kind]
    special = [token for token in package.get_added_tokens_decoder().values() if token.special]
    for token in special[:3]:
        index = package.token_to_id(token.content)
        assert ours.decode([index]) == ""
        assert ours.encode(f"the {token.content} the") == package.encode(f"the {token.content} the", add_special_tokens=False).ids
        assert index not in ours.encode(f"the {token.content} the") or index == 0 or kind == "unigram"  # 0: an unknown word
    assert package.encode("the").ids != ours.encode("the") or kind != "wordpiece"  # no [CLS] of the post-processor


@every_kind
def test_ids_beyond_the_tokenizers_own_decode_to_nothing_and_others_are_refused(kind: str) -> None:
    ours = parse(trained(kind), IDS, kind, ())
    assert ours.size == IDS and ours.known < IDS
    assert ours.decode([ours.known, IDS - 1]) == ""
    with pytest.raises(TokenizerError, match=f"0 to {IDS - 1}; got {IDS}"):
        ours.decode([IDS])
    with pytest.raises(TokenizerError, match="character 1 is half a surrogate pair"):
        ours.encode("a\ud800")


def test_more_ids_than_the_model_has_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "unigram")
    known = load_tokenizer(path, IDS).known
    with pytest.raises(TokenizerError, match=f"at most the model's {known - 1} ids; .* has {known}"):
        load_tokenizer(str(path), known - 1)
    assert load_tokenizer(str(path), known).size == known


def test_truncation_and_padding_of_the_file_do_not_change_ids() -> None:
    root = json.loads(trained("GPT-4"))
    root["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    root["padding"] = {
        "strategy": {"Fixed": 20},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "!",
    }
    text = "a text of more than three tokens"
    assert parse(json.dumps(root), IDS, "", ()).encode(text) == package_of("GPT-4").encode(text).ids


def test_what_is_stored_is_the_file_byte_for_byte(tmp_path: Path) -> None:
    path = write(tmp_path, "unigram")
    data = load_tokenizer(path, IDS).to_data()
    assert (data.kind, data.meta, list(data.arrays)) == ("json", {}, ["json"])
    assert data.arrays["json"].tobytes() == path.read_bytes()


def test_our_own_reader_takes_what_it_can_express() -> None:
    """GPT-2's and GPT-NeoX's kind, whatever special tokens a post-processor would add."""
    root = json.loads(trained("byte-level"))
    assert isinstance(parse(json.dumps(root), IDS, "", ()), BpeTokenizer)
    root["post_processor"] = json.loads(trained("wordpiece"))["post_processor"]
    root["post_processor"]["special_tokens"] = {name: {"id": name, "ids": [0], "tokens": ["<|endoftext|>"]} for name in ("[CLS]", "[SEP]")}
    ours = parse(json.dumps(root), IDS, "", ())
    assert isinstance(ours, BpeTokenizer)
    package = Package.from_str(json.dumps(root))
    package.encode_special_tokens = True
    for text in HARD:
        assert ours.encode(text) == package.encode(text, add_special_tokens=False).ids


@settings(max_examples=200, deadline=None)
@given(text=TEXTS | st.text(alphabet=" \n\tabé\u0301中한😀\u00a0", max_size=60))
def test_our_own_reader_gives_the_packages_ids_of_a_trained_file(text: str) -> None:
    ours = parse(trained("byte-level"), IDS, "", None)
    assert isinstance(ours, BpeTokenizer)
    assert ours.encode(text) == package_of("byte-level").encode(text).ids


def test_a_file_whose_ids_differ_in_our_reader_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    text = FILE.read_text(encoding="utf-8")
    assert parse(text, 4096, "", ()).to_data().kind == "bpe"
    plain = BpeTokenizer.encode
    monkeypatch.setattr(BpeTokenizer, "encode", lambda self, text: [1] if "unusual" in text else plain(self, text))
    assert parse(text, 4096, "", ()).to_data().kind == "bpe"
    kept = parse(text, 4096, "", ("an unusual sample",))
    assert kept.to_data().kind == "json"
    assert kept.encode("an unusual sample") == Package.from_str(text).encode("an unusual sample").ids


def test_without_the_package_our_reader_works_and_other_files_need_it_in_one_sentence(
    tmp_path: Path, pairs: dict[str, tuple[Tokenizer, Package]], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = pairs["unigram"][0].to_data()
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert load_tokenizer(FILE, 4096).to_data().kind == "bpe"
    with pytest.raises(TokenizerError, match=rf"the model Unigram; only the tokenizers package .*{INSTALLS}"):
        load_tokenizer(write(tmp_path, "unigram"), IDS)
    with pytest.raises(TokenizerError, match=rf"only the tokenizers package can .*{INSTALLS}"):
        from_data(data, IDS)


def test_what_the_package_does_not_read_is_refused_in_one_sentence() -> None:
    root = json.loads(trained("unigram"))
    root["normalizer"] = {"type": "Unheard"}
    with pytest.raises(TokenizerError, match=r"the tokenizers package cannot read this tokenizer\.json: .*somewhere"):
        parse(json.dumps(root), IDS, "somewhere", ())
    words = json.loads(trained("words"))
    words["model"]["unk_token"] = "[NONE]"
    with pytest.raises(TokenizerError, match="the tokenizers package cannot encode this text"):
        parse(json.dumps(words), IDS, "", ()).encode("unheard-of")


def test_a_panic_of_the_package_becomes_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    """A regular expression that would take for ever: the package's library gives up, and panics."""
    root = json.loads(trained("GPT-4"))
    root["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = "(a+)+$"
    ours = parse(json.dumps(root), IDS, "", ())
    with pytest.raises(TokenizerError, match=r"the tokenizers package cannot encode this text: .*retry-limit"):
        ours.encode("a" * 200 + "!")


@pytest.mark.parametrize(
    "array", [np.zeros(64, np.float32), np.zeros((8, 8), np.uint8), np.frombuffer(b"\xff{}", np.uint8), np.zeros(0, np.uint8)]
)
def test_a_stored_array_that_is_no_json_is_refused(array: np.ndarray) -> None:
    with pytest.raises(TokenizerError):
        from_data(TokenizerData("json", {}, {"json": array}))
    with pytest.raises(TokenizerError, match="missing: json"):
        from_data(TokenizerData("json"))


def write(folder: Path, kind: str) -> Path:
    path = folder / "tokenizer.json"
    path.write_text(trained(kind), encoding="utf-8")
    return path
