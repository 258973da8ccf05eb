"""The model card has the numbers of this run and a licence that was given; files of others are not overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.exporting.card import MARK, prepare
from rwkvquant.formats.container import open_packed
from tests.checkpoints.layouts import write_directory
from tests.helpers import random_state_dict, write_pth
from tests.vision import write_vrwkv

TEXT = "The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 20
COMMAND = ["quantize", "model.pth", "-o", "out/model.safetensors", "--method", "rtn", "--bits", "5", "--card"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A publisher's folder: model.pth, some.txt, and an empty out/."""
    write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", layers=1, width=64))
    (tmp_path / "some.txt").write_text(TEXT)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def header(path: Path) -> dict[str, str]:
    """The YAML between the first two lines of three dashes: one `key: value` per line."""
    first, body, _ = path.read_text().split("---\n", 2)
    assert first == ""
    return dict(line.split(": ", 1) for line in body.splitlines())


def test_the_card_holds_the_numbers_of_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--license", "apache-2.0", "--base-model", "BlinkDL/rwkv7-g1", "--card-text", "some.txt", "--json"]
    assert run([*COMMAND, *options]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["card"] == ["out/README.md", "out/config.json"]
    written = header(folder / "out/README.md")
    assert written["base_model"] == '"BlinkDL/rwkv7-g1"' and written["license"] == '"apache-2.0"'
    assert written["base_model_relation"] == "quantized" and written["library_name"] == "rwkvquant" and "rwkv7" in written["tags"]
    assert written["pipeline_tag"] == "text-generation"
    (model,) = json.loads(written["model-index"])
    assert model["results"][0]["task"] == {"type": "text-generation"}
    measured = {metric["type"]: metric["value"] for metric in model["results"][0]["metrics"]}
    assert model["name"] == "model.safetensors" and model["results"][0]["dataset"]["name"] == "some.txt"
    assert measured["kl_divergence"] == pytest.approx(result["divergence"]["kl_mean"], abs=1e-6)
    assert measured["perplexity"] == pytest.approx(result["divergence"]["ppl_quantized"], abs=1e-6)
    text = (folder / "out/README.md").read_text()
    packed = open_packed("out/model.safetensors")
    assert measured["bits_per_weight"] == pytest.approx(packed.ledger().bits_per_weight, abs=1e-4)
    assert f"| file size | {packed.file_bytes:,} bytes |" in text
    assert f"| bits per weight, projections and LoRA factors | {packed.ledger().bits_per_weight:.3f} |" in text
    assert f"| {result['divergence']['kl_mean']:.5f} [" in text and result["divergence"]["tokens"] == len(TEXT)
    assert f"{len(TEXT):,} tokens of some.txt" in text and packed.provenance["source_sha256"] in text
    assert str(folder) not in text + (folder / "out/config.json").read_text()


TAGS = {
    "head": "image-classification",
    "decode_head": "image-segmentation",
    "bbox_head": "object-detection",
    "": "image-feature-extraction",
}


@pytest.mark.parametrize("head", TAGS)
def test_the_card_of_a_model_for_images_says_what_its_head_does(head: str, folder: Path) -> None:
    source = write_vrwkv(folder, head=head)
    command = ["quantize", str(source), "-o", "out/model.safetensors", "--method", "rtn", "--code-bits", "4", "--card", "--license", "mit"]
    assert run([*command, "--card-text", "some.txt"]) == 2 and not (folder / "out/model.safetensors").exists()
    assert run(command) == 0
    assert header(folder / "out/README.md")["pipeline_tag"] == TAGS[head]
    text, config = (folder / "out/README.md").read_text(), json.loads((folder / "out/config.json").read_text())
    assert "generate" not in text and "tokenizer" not in text and "rwkvquant inspect model.safetensors" in text
    assert config["quantization_config"]["calibration"] == {"sha256": None, "images": None}
    assert (config["model_type"], config["patch_size"], config["num_labels"]) == ("vrwkv", 4, 5 if head else 0)


def test_the_config_has_the_keys_that_loaders_need(folder: Path) -> None:
    assert run([*COMMAND, "--license", "cc0-1.0"]) == 0
    config, packed = json.loads(Path("out/config.json").read_text()), open_packed("out/model.safetensors")
    assert (config["model_type"], config["hidden_size"], config["num_hidden_layers"]) == ("rwkv7", 64, 1)
    quantisation = config["quantization_config"]
    assert quantisation["quant_method"] == "rwkvquant" and quantisation["method"] == "rtn" and quantisation["file"] == "model.safetensors"
    assert (
        quantisation["bits"] == packed.quantization_config["bits"]
        and quantisation["base_model_sha256"] == packed.provenance["source_sha256"]
    )
    assert quantisation["bits_total"] == pytest.approx(packed.ledger().bits_per_weight_file, abs=1e-4)
    assert header(Path("out/README.md"))["base_model"] == '"model"'
    assert "KL divergence" not in Path("out/README.md").read_text() and "This run did not measure" in Path("out/README.md").read_text()


def test_a_second_run_replaces_our_own_files(folder: Path) -> None:
    assert run([*COMMAND, "--license", "cc0-1.0"]) == 0
    assert run([*COMMAND, "--license", "mit"]) == 0
    assert header(Path("out/README.md"))["license"] == '"mit"'
    assert sorted(path.name for path in Path("out").iterdir()) == ["README.md", "config.json", "model.safetensors"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "# My notes"),
        ("README.md", ""),
        ("config.json", "{}"),
        ("config.json", '{"quantization_config": {"quant_method": "gptq"}}'),
    ],
)
def test_files_that_we_did_not_write_are_not_overwritten(folder: Path, name: str, content: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "out" / name).write_text(content)
    assert run([*COMMAND, "--license", "mit"]) == 2
    assert f"out/{name} exists and was not written by rwkvquant" in capsys.readouterr().err
    assert (folder / "out" / name).read_text() == content and [path.name for path in Path("out").iterdir()] == [name]


def test_a_broken_link_is_not_written_through(folder: Path) -> None:
    (folder / "out" / "README.md").symlink_to(folder / "elsewhere.md")
    assert run([*COMMAND, "--license", "mit"]) == 2
    assert not (folder / "elsewhere.md").exists()


def test_a_licence_is_given_or_read_and_never_guessed(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a card names the licence of the original, .* give it, as --license apache-2.0"):
        prepare("model.pth", "out/model.safetensors", None, None)
    path = write_directory(folder / "hub", random_state_dict("rwkv7", layers=1))
    with pytest.raises(ConfigError, match="names the licence"):
        prepare(path, "out/model.safetensors", None, None)
    for text, licence in [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n", "apache-2.0"),
        ('---\r\nlicense: "mit"  \r\nbase_model: x\r\n---\r\n', "mit"),
        ("---\nlanguage: en\n---\nlicense: mit\n", None),
        ("# license: mit\nlicense: mit\n", None),
        ("---\nlicense:\n- mit\n---\n", None),
    ]:
        (path / "README.md").write_text(text, newline="")
        if licence is None:
            with pytest.raises(ConfigError, match="names the licence"):
                prepare(path, "out/model.safetensors", None, None)
        else:
            assert prepare(path, "out/model.safetensors", None, None).licence == licence
        assert prepare(path, "out/model.safetensors", "cc0-1.0", None).licence == "cc0-1.0"


@pytest.mark.parametrize("option", ["--license", "--base-model"])
@pytest.mark.parametrize("value", ["mit\nbase_model: other", 'a"b', "../..", "", "a b", "-x"])
def test_an_option_cannot_add_lines_to_the_header(folder: Path, option: str, value: str) -> None:
    words = [*COMMAND, "--license", "mit", f"{option}={value}"]
    assert run(words) == (0 if (option, value) == ("--base-model", "") else 2)
    if Path("out/README.md").exists():
        assert header(Path("out/README.md"))["base_model"] == '"model"'


@pytest.mark.parametrize("words", [["--license", "mit"], ["--base-model", "a/b"], ["--card-text", "some.txt"]])
def test_options_of_the_card_without_the_card_are_refused(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMAND[:-1], *words]) == 2
    assert "go with --card" in capsys.readouterr().err


def test_a_missing_text_is_found_before_the_work(folder: Path) -> None:
    assert run([*COMMAND, "--license", "mit", "--card-text", "nowhere.txt"]) == 2
    assert list(Path("out").iterdir()) == []


def test_our_mark_is_in_the_card_once(folder: Path) -> None:
    assert run([*COMMAND, "--license", "mit"]) == 0
    assert Path("out/README.md").read_text().count(MARK) == 1
