"""Which of the tokenizer files next to a checkpoint is used: a close fit, one of equals, none of another model's, never a guess of two."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import rwkvquant
from rwkvquant.checkpoints import TokenizerFiles, open_checkpoint
from rwkvquant.checkpoints.tokenizer_files import tokenizer_files
from rwkvquant.cli.main import run
from rwkvquant.errors import TokenizerError
from rwkvquant.runtime.tokenizer import Tokenizer, load_tokenizer
from rwkvquant.runtime.tokenizer_json import byte_characters
from rwkvquant.runtime.tokenizer_world import load_world
from tests.helpers import random_state_dict, write_pth
from tests.runtime.trained_tokenizers import trained

FILE = Path(__file__).parents[1] / "data" / "tokenizer.json"  # 4096 ids
PLAIN = ["--method", "rtn", "--code-bits", "4"]


def tokenizer_json(path: Path, ids: int, merges: int = 0) -> Path:
    """Byte-level BPE with the 256 bytes, `merges` merges, and names that no text has up to `ids`."""
    root = json.loads(FILE.read_text(encoding="utf-8"))
    vocabulary = {letter: byte for byte, letter in enumerate(byte_characters())}
    pairs = [("t", "h"), ("th", "e")][:merges]
    vocabulary |= {"".join(pair): 256 + i for i, pair in enumerate(pairs)}
    vocabulary |= {f"unused{i}": i for i in range(len(vocabulary), ids)}
    root["model"] |= {"vocab": vocabulary, "merges": pairs}
    root["added_tokens"] = []
    path.write_text(json.dumps(root), encoding="utf-8")
    return path


def world_txt(path: Path, tokens: list[bytes] | None = None) -> Path:
    lines = [f"{i} {token!r} {len(token)}\n" for i, token in enumerate(tokens or load_world()) if token]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def beside(folder: Path, vocab_size: int, own: bool = False) -> Tokenizer:
    files = tokenizer_files(folder if own else folder / "model.pth")
    return load_tokenizer(files, vocab_size)


def test_files_are_found_by_their_names_next_to_a_file_and_in_a_directory(tmp_path: Path) -> None:
    assert tokenizer_files(tmp_path / "model.pth") is None
    names = ["rwkv_vocab_v20230424.txt", "tokenizer.json", "20B_tokenizer.json"]
    for name in [*names, "config.json", "vocab.txt", "tokenizer_config.json"]:
        (tmp_path / name).write_text("{}")
    (tmp_path / "odd_tokenizer.json").mkdir()
    paths = tuple(tmp_path / name for name in names)
    assert tokenizer_files(tmp_path / "model.pth") == TokenizerFiles(paths, own=False)
    assert tokenizer_files(tmp_path) == TokenizerFiles(paths, own=True)


@pytest.mark.parametrize("name", ["tokenizer.json", "20B_tokenizer.json"])
def test_the_one_that_fits_is_used(tmp_path: Path, name: str) -> None:
    path = tokenizer_json(tmp_path / name, 5277, merges=2)
    found = beside(tmp_path, 5304)
    assert (found.source, found.encode("the")) == (str(path), [257])
    world_txt(tmp_path / "rwkv_vocab_v20230424.txt")  # more ids than the model
    assert beside(tmp_path, 5304).source == str(path)
    assert beside(tmp_path, 65536).encode("the") == load_tokenizer("world", 65536).encode("the")


def test_a_world_vocabulary_next_to_a_checkpoint_is_used(tmp_path: Path) -> None:
    path = world_txt(tmp_path / "rwkv_vocab_v9.txt", [b"", b"t", b"h", b"e", b"the"])
    assert (beside(tmp_path, 300).source, beside(tmp_path, 300).encode("the")) == (str(path), [4])


def test_two_that_fit_are_named_and_the_user_chooses(tmp_path: Path) -> None:
    one, other = tokenizer_json(tmp_path / "tokenizer.json", 5277), tokenizer_json(tmp_path / "20B_tokenizer.json", 5277, merges=2)
    for own in (False, True):
        with pytest.raises(TokenizerError) as caught:
            beside(tmp_path, 5304, own)
        for part in (str(one), str(other), "5304", "--tokenizer FILE"):
            assert part in str(caught.value)
    assert load_tokenizer(str(other), 5304).encode("the") == [257]


def test_copies_of_one_tokenizer_are_one(tmp_path: Path) -> None:
    path = tokenizer_json(tmp_path / "tokenizer.json", 5277)
    (tmp_path / "20B_tokenizer.json").write_text(json.dumps(json.loads(path.read_text()), indent=1))  # other bytes, the same tokenizer
    assert beside(tmp_path, 5304).source == str(path)


def test_a_close_fit_wins_over_a_loose_one_and_a_loose_one_over_none(tmp_path: Path) -> None:
    loose = tokenizer_json(tmp_path / "a_tokenizer.json", 300)
    assert beside(tmp_path, 5304).source == str(loose)
    close = tokenizer_json(tmp_path / "b_tokenizer.json", 5304 - 1023)
    assert beside(tmp_path, 5304).source == str(close)
    close.unlink()
    tokenizer_json(tmp_path / "b_tokenizer.json", 5304 - 1024, merges=1)
    with pytest.raises(TokenizerError, match="both fit"):
        beside(tmp_path, 5304)


def test_a_world_model_takes_world_unless_a_file_fits_closely_or_is_its_own(tmp_path: Path) -> None:
    """20B_tokenizer.json is in many folders with World models."""
    world = load_tokenizer("world", 65536).encode("the")
    assert load_tokenizer(None, 65536).encode("the") == world
    path = tokenizer_json(tmp_path / "20B_tokenizer.json", 5277, merges=2)
    assert beside(tmp_path, 65536).encode("the") == world
    assert beside(tmp_path, 65536, own=True).source == str(path)
    tokenizer_json(path, 65536, merges=2)
    assert beside(tmp_path, 65536).encode("the") == [257]


def test_world_in_another_form_is_world(tmp_path: Path) -> None:
    root = json.loads(tokenizer_json(tmp_path / "tokenizer.json", 256).read_text())
    root["model"]["vocab"] = {token.decode("utf-8", "replace"): i for i, token in enumerate(load_world()) if token}
    (tmp_path / "tokenizer.json").write_text(json.dumps(root))
    for own in (False, True):
        found = beside(tmp_path, 65536, own)
        assert found.encode("the cat") == load_tokenizer("world", 65536).encode("the cat")
        assert "tokenizer.json" in found.source and "World vocabulary" in found.source
    world_txt(tmp_path / "rwkv_vocab_v20230424.txt")
    assert beside(tmp_path, 65536, own=True).source == str(tmp_path / "rwkv_vocab_v20230424.txt")  # and both are one


def test_files_of_other_models_change_no_default_and_are_named_where_there_is_none(tmp_path: Path) -> None:
    path = tokenizer_json(tmp_path / "tokenizer.json", 1000)
    assert beside(tmp_path, 256).to_data().kind == "bytes"
    with pytest.raises(TokenizerError, match=rf"vocabulary of 999 .*{path}.*--tokenizer FILE"):
        beside(tmp_path, 999)
    with pytest.raises(TokenizerError, match=rf"at most the model's 256 ids; {path} has 1000"):
        beside(tmp_path, 256, own=True)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        beside(tmp_path, 4096)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """model.pth with 4096 ids, and its tokenizer.json."""
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64, vocab=4096, first_layer_v=False))
    shutil.copy(FILE, tmp_path / "tokenizer.json")
    (tmp_path / "some.txt").write_text("The old man and the sea. " * 40)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_finds_the_tokenizer_next_to_a_pth(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = load_tokenizer(FILE, 4096).encode("The old man")
    assert rwkvquant.load("model.pth", threads=1).tokenizer.encode("The old man") == expected
    assert run(["eval", "model.pth", "--text", "some.txt"]) == 0
    assert run(["generate", "model.pth", "-p", "The", "-n", "3"]) == 0
    assert run(["activations", "model.pth", "blocks.0.att.r_k", "--text", "some.txt", "--rows", "1", "--length", "32"]) == 0
    capsys.readouterr()
    assert run(["inspect", "model.pth"]) == 0
    assert "tokenizer bpe: tokenizer.json" in capsys.readouterr().out
    assert run(["inspect", "model.pth", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tokenizer"], told["tokenizer_source"]) == ("bpe", "tokenizer.json")
    assert run(["quantize", "model.pth", "-o", "a.safetensors", *PLAIN]) == 0
    assert "tokenizer bpe: tokenizer.json" in capsys.readouterr().out
    assert run(["quantize", "model.pth", "--dry-run", "--json", *PLAIN]) == 0
    assert json.loads(capsys.readouterr().out)["tokenizer"] == "bpe"
    (folder / "tokenizer.json").unlink()
    assert rwkvquant.load("a.safetensors", threads=1).tokenizer.encode("The old man") == expected
    assert run(["inspect", "model.pth"]) == 0
    assert "tokenizer unknown: no tokenizer is known for a vocabulary of 4096" in capsys.readouterr().out


def test_export_rounds_a_checkpoint_with_the_tokenizer_next_to_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--calib", "some.txt", "--calib-rows", "2", "--calib-len", "32"]
    assert run(["export", "model.pth", "-o", "m.gguf", "--layout", "gguf", "--gguf-type", "q8_0", *small]) == 0
    ids = rwkvquant.load("m.gguf", threads=1).tokenizer.encode("The old man")
    assert ids == load_tokenizer(FILE, 4096).encode("The old man")


def test_an_explicit_tokenizer_wins(folder: Path) -> None:
    assert rwkvquant.load("model.pth", tokenizer="bytes", threads=1).tokenizer.encode("AB") == [65, 66]
    assert run(["quantize", "model.pth", "-o", "a.safetensors", *PLAIN, "--tokenizer", "bytes"]) == 0
    assert rwkvquant.load("a.safetensors", threads=1).tokenizer.encode("AB") == [65, 66]


def test_a_tokenizer_that_is_kept_whole_is_packed_and_runs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tokenizer.json").write_text(trained("unigram"), encoding="utf-8")
    assert run(["quantize", "model.pth", "-o", "a.safetensors", *PLAIN]) == 0
    out, err = capsys.readouterr()
    assert "tokenizer json: tokenizer.json" in out and "needed: pip install" in " ".join(err.split())
    expected = rwkvquant.load("model.pth", threads=1).tokenizer.encode("The old man")
    (folder / "tokenizer.json").unlink()
    packed = rwkvquant.load("a.safetensors", threads=1)
    assert packed.tokenizer.encode("The old man") == expected
    for seed in range(20):  # a space before the first word belongs to the text that follows a prompt; decoded alone it is left out
        result = packed.generate("The old man", max_tokens=5, seed=seed)
        assert packed.tokenizer.decode(expected) + result.text == packed.tokenizer.decode([*expected, *result.tokens])
    assert open_checkpoint("model.pth").tokenizer is None
    (folder / "tokenizer.json").write_text(trained("unigram"), encoding="utf-8")
    assert run(["export", "model.pth", "-o", "m.gguf", "--layout", "gguf", "--gguf-type", "q8_0"]) == 2
    assert "kind json" in " ".join(capsys.readouterr().err.split())
    assert run(["export", "a.safetensors", "-o", "m.gguf", "--layout", "gguf"]) == 2
    assert "kind json" in " ".join(capsys.readouterr().err.split())


def test_a_card_says_what_a_tokenizer_that_is_kept_whole_needs(folder: Path) -> None:
    (folder / "out").mkdir()
    card = ["--card", "--license", "apache-2.0"]
    assert run(["quantize", "model.pth", "-o", "out/a.safetensors", *PLAIN, *card]) == 0
    assert "    pip install rwkv-hybridquant\n" in (folder / "out" / "README.md").read_text()
    (folder / "tokenizer.json").write_text(trained("unigram"), encoding="utf-8")
    assert run(["quantize", "model.pth", "-o", "out/a.safetensors", *PLAIN, *card]) == 0
    assert "    pip install 'rwkv-hybridquant[tokenizers]'\n" in (folder / "out" / "README.md").read_text()


def test_the_tokenizer_is_never_the_output(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "tokenizer.json").read_bytes()
    assert run(["quantize", "model.pth", "-o", "tokenizer.json", *PLAIN]) == 2
    assert "tokenizer.json" in capsys.readouterr().err
    assert (folder / "tokenizer.json").read_bytes() == before
