"""The report shows the numbers of the files it is made from, escapes all names, and needs no other file."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rwkvquant
from rwkvquant.cli.main import run
from rwkvquant.formats.container import ContainerWriter, open_packed
from rwkvquant.images import png_bytes
from rwkvquant.report import levels, svg
from rwkvquant.report.kinds import kind_of
from rwkvquant.report.page import html, plots
from rwkvquant.report.sources import Sources, gather
from rwkvquant.report.tensor_map import place_of
from rwkvquant.selection.algorithm1 import percentile_thresholds
from tests.formats import examples
from tests.helpers import random_state_dict, write_pth

DATA = Path(__file__).parents[1] / "data"
PAPER = DATA / "rwkv7-tiny-paper.safetensors"
HOSTILE = "</style><script>alert('x')</script>"
VOID = {"meta", "link", "img", "br"}

COMPARED = {
    "original": "model.pth",
    "quantised": "model.safetensors",
    "kl_mean": 0.012345,
    "kl_ci95": [0.0111, 0.0133],
    "kl_p99": 0.1,
    "kl_max": 0.2,
    "top1_agreement": 0.9123,
    "top1_ci95": [0.9, 0.92],
    "ppl_base": 30.25,
    "ppl_quantized": 31.5,
    "tokens": 2048,
    "windows_sha256": "abc",
    "kl_by_position": [
        {"first": 1, "last": 1, "tokens": 4, "kl_mean": 0.01},
        {"first": 2, "last": 3, "tokens": 8, "kl_mean": 0.02},
    ],
}


class Page(HTMLParser):
    """The elements of a page, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small checkpoint, a packed file of it, and the JSON of `quantize`. Made once: each test has a copy."""
    folder = tmp_path_factory.mktemp("made")
    write_pth(folder / "model.pth", random_state_dict("rwkv7", layers=2, width=64))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        result = rwkvquant.quantize("model.pth", "model.safetensors", rwkvquant.QuantizeRequest(method="rtn", bits=4.5)).to_json()
        write("quantize.json", result)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What was made, and the JSON of the other commands next to it."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    write("compare.json", COMPARED)
    write("bench.json", bench(Path("model.safetensors")))
    return tmp_path


def bench(file: Path) -> dict[str, Any]:
    return {
        "file": file.name,
        "file_bytes": file.stat().st_size,
        "decode_tok_s": 123.4,
        "roofline_share": 0.56,
        "roofline_gb_s": 12.0,
        "gb_s": 6.7,
        "threads": 2,
        "backend": "avx2",
        "machine": HOSTILE,
    }


def write(name: str, content: Any) -> None:
    Path(name).write_text(json.dumps(content))


def plan_of(packed: Path) -> dict[str, Any]:
    """As pass 1 leaves it, with invented proxies."""
    opened = open_packed(packed)
    names = [item.name for item in opened.ledger().items if item.role in ("projection", "lora")]
    proxies = {name: {"paper": {"coarse": 1 + i / 10, "fine": [1.0, 2.0, 30.0 + i]}} for i, name in enumerate(names)}
    tensors = {name: {"weights": 1, "proxies": proxies[name], "candidates": [], "chosen": {"symmetric": False}} for name in names}
    return {"made_from": {"checkpoint": opened.provenance["source_sha256"]}, "state": {"complete": True, "tensors": tensors}}


def test_the_page_has_every_part_that_there_is_data_for(folder: Path) -> None:
    Path("work").mkdir()
    write("work/plan.json", plan_of(Path("model.safetensors")))
    text = html(gather("model.safetensors", original="model.pth"))
    page = Page(text)
    keys = [attributes["aria-labelledby"].removesuffix("-heading") for attributes in page.all("section")]
    assert keys == ["map", "sizes", "positions", "proxies", "levels-largest", "levels-smallest", "conditions"]
    assert "Not here" not in page.text
    for words in ("4.5", "91.2 %", "90.0 to 92.0 %", "0.01235", "0.0111 to 0.0133", "31.50", "123.4 tokens/s", "56 %", "RWKV-7"):
        assert words in page.text, words


def test_without_json_the_page_says_what_is_missing_and_how_to_make_it(tmp_path: Path) -> None:
    page = Page(html(gather(PAPER)))
    assert "rwkvquant compare rwkv7-tiny.pth rwkv7-tiny-paper.safetensors --text" in page.text
    assert "rwkvquant bench rwkv7-tiny-paper.safetensors --json" in page.text
    assert "KL divergence" not in page.text and "tokens/s" not in page.text


def test_numbers_are_those_of_inspect(folder: Path) -> None:
    info = rwkvquant.inspect("model.safetensors").to_json()
    found = {plot.key: plot for plot in plots(gather("model.safetensors"))}
    rows = {row[0]: row for row in found["map"].rows}
    assert rows.keys() == {tensor["name"] for tensor in info["tensors"]}
    for tensor in info["tensors"]:
        assert rows[tensor["name"]][2:4] == (tensor["method"], tensor["layout"])
        assert rows[tensor["name"]][5] == f"{tensor['bits_per_weight']:.3f}"
        assert rows[tensor["name"]][6] == (f"{tensor['relative_error']:.3g}" if "relative_error" in tensor else "")
    assert [row[3] for row in found["sizes"].rows] == [f"{row['stored_bytes']:,}" for row in info["ledger"]]
    page = Page(html(gather("model.safetensors"))).text
    assert f"{info['bits_per_weight']:.3f}" in page and f"{info['file_bytes']:,}" in page
    source = json.loads(Path("quantize.json").read_text())["source"]
    assert f"{source['file_bytes'] / info['file_bytes']:.2f} times smaller" in page


def test_histograms_count_every_weight(folder: Path) -> None:
    sources = gather("model.safetensors", original="model.pth")
    packed, original = sources.packed, sources.original
    assert packed is not None and original is not None
    for plot in plots(sources):
        if plot.key.startswith("levels"):
            name = plot.title.rpartition(" ")[2]
            assert sum(int(row[2]) for row in plot.rows) == sum(int(row[3]) for row in plot.rows) == packed.entry(name).weights
            assert float(plot.rows[0][0]) == pytest.approx(min(packed.decode(name).min(), original.read_matrix(name).min()), rel=1e-4)


@pytest.mark.parametrize(("method", "key", "into"), [("awq", "att.a2", "att.a1"), ("quarot", "att.v2", "att.v1")])
def test_weights_with_a_folded_transform_are_not_compared_with_the_original(tmp_path: Path, method: str, key: str, into: str) -> None:
    shape = {"layers": 2, "width": 64, "hidden": 96, "vocab": 256, "ranks": dict.fromkeys(("Rw", "Ra", "Rv", "Rg"), 8)}
    source, output = write_pth(tmp_path / "model.pth", random_state_dict("rwkv7", **shape)), tmp_path / "out.safetensors"
    request = rwkvquant.QuantizeRequest(
        method=method, code_bits=4, tokenizer="bytes", calibration=rwkvquant.CalibrationConfig(None, rows=2, length=64)
    )
    rwkvquant.quantize(source, output, request)
    sources = gather(str(output), original=str(source))
    assert sources.packed is not None
    for name, of_original in ((f"blocks.1.{key}", False), (f"blocks.1.{into}", False), ("blocks.1.att.w1", True)):
        plot = levels._histogram(sources, sources.packed, name, 0.1, 0)
        assert ("original" in plot.head) == of_original and ("folded into these" in plot.about) != of_original


def test_thresholds_are_those_of_algorithm_1(folder: Path) -> None:
    content = plan_of(Path("model.safetensors"))
    write("plan.json", content)
    pairs = {
        name: (each["proxies"]["paper"]["coarse"], each["proxies"]["paper"]["fine"][2])
        for name, each in content["state"]["tensors"].items()
    }
    limits = percentile_thresholds(pairs)
    plot = next(plot for plot in plots(gather("model.safetensors")) if plot.key == "proxies")
    assert f"P_c {limits.coarse:.4g} and P_f {limits.fine:.4g}" in plot.about
    assert {row[0]: (float(row[1]), float(row[2])) for row in plot.rows} == pairs


def test_names_from_files_are_escaped(folder: Path) -> None:
    """Of files, and in what other commands printed; tensors and methods of a packed file can have no such names."""
    with_name = Path("<script>.safetensors")
    with ContainerWriter(with_name) as out:
        examples.add_model(out)
        out.add("blocks.0.att.a3", examples.codebook(np.random.default_rng(0), (8, 32)), role="lora", method="gptvq")
        out.add("ln_out.weight", examples.dense(np.random.default_rng(0), (32,)), role="norm", method="dense")
        examples.finish(out)
    write("hostile.compare.json", COMPARED | {"quantised": with_name.name, "windows_sha256": HOSTILE})
    demo = {"quantize": {HOSTILE: json.loads(Path("quantize.json").read_text()) | {"file_bytes": with_name.stat().st_size}}}
    demo |= {"compare": {HOSTILE: COMPARED}, "text": {HOSTILE: {"text": HOSTILE}}, "images": [{HOSTILE: HOSTILE}]}
    write("demo.json", demo)
    text = html(gather(with_name))
    page = Page(text)
    assert "<script" not in text and page.all("script") == [] and len(page.all("style")) == 1
    assert page.text.count(HOSTILE) > 5


def test_the_page_needs_no_other_file(folder: Path) -> None:
    Path("a.png").write_bytes(png_bytes(np.full((4, 5, 3), 99, np.uint8)))
    page = Page(html(gather(".", original="model.pth")))
    for _, attributes in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster"):
            assert attributes.get(name, "data:").startswith(("data:", "#"))
        assert not any(name.startswith("on") for name in attributes)
    text = re.sub(r'"data:[^"]*"', '""', html(gather(".")))
    assert re.findall(r"https?:|url\(|@import|<script", text) == []
    assert [each["alt"] for each in page.all("img")] == ["a.png"]


def test_every_picture_has_a_title_a_description_and_a_table(folder: Path) -> None:
    write("plan.json", plan_of(Path("model.safetensors")))
    sources = gather("model.safetensors", original="model.pth")
    page = Page(html(sources))
    names = {attributes["id"] for tag, attributes in page.elements if tag in ("title", "desc") and "id" in attributes}
    pictures = page.all("svg")
    assert len(pictures) == len(plots(sources)) == len(page.all("details")) >= 5
    for attributes in pictures:
        assert attributes["role"] == "img" and set(attributes["aria-labelledby"].split()) <= names
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for plot in plots(sources):
        assert plot.rows and all(len(row) == len(plot.head) for row in plot.rows), plot.key


def test_series_differ_in_shape_too() -> None:
    marks = [re.sub(r' class="[^"]*"', "", svg.mark(0, 0, series)) for series in range(svg.SERIES)]
    assert len(set(marks)) == svg.SERIES


@pytest.mark.parametrize("name", ["compare.json", "bench.json", "quantize.json"])
def test_json_with_fields_of_other_types_is_left_out_and_named(folder: Path, name: str) -> None:
    content = json.loads(Path(name).read_text())
    key = {"compare.json": "kl_mean", "bench.json": "roofline_share", "quantize.json": "file_bytes"}[name]
    for value in ("<b>", None, [1], True, float("nan"), -1 if key == "file_bytes" else {}):
        write(name, content | {key: value})
        sources = gather("model.safetensors")
        assert kind_of(content) not in sources.found and f"{name} looks like" in " ".join(sources.notes)
        html(sources)


@pytest.mark.parametrize("made_from", [None, 1, "text", []])
def test_a_plan_whose_origin_has_another_type_is_left_out_and_named(folder: Path, made_from: Any) -> None:
    Path("work").mkdir()
    write("work/plan.json", plan_of(Path("model.safetensors")) | {"made_from": made_from})
    sources = gather("model.safetensors")
    assert "plan" not in sources.found and "plan.json looks like" in " ".join(sources.notes)


@pytest.mark.parametrize(("counted", "unit"), [({"tokens": 4}, "token"), ({"images": 4}, "image")])
def test_the_frontier_of_demo_says_what_its_divergence_is_a_mean_over(folder: Path, counted: dict[str, int], unit: str) -> None:
    compared = {key: value for key, value in COMPARED.items() if key != "tokens"} | counted
    demo = {"quantize": {"ours": json.loads(Path("quantize.json").read_text())}, "compare": {"ours": compared}}
    Path("compare.json").unlink()
    write("demo.json", demo)
    text = html(gather("model.safetensors"))
    others = {"token", "image"} - {unit}
    assert f"KL, nats per {unit}" in text and not any(f"KL, nats per {other}" in text for other in others)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "\xff", "null", '{"file": 1}'])
def test_other_json_next_to_the_file_is_passed_over(folder: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("other.json").write_text(text, encoding="latin-1")
    assert gather("model.safetensors").notes == ()
    assert run(["report", "model.safetensors", "other.json"]) == 2
    assert "other.json is not the JSON of quantize, compare" in capsys.readouterr().err


def test_json_about_another_file_is_left_out(folder: Path) -> None:
    write("compare.json", COMPARED | {"quantised": "elsewhere/other.safetensors"})
    write("bench.json", bench(Path("model.safetensors")) | {"file_bytes": 1})
    sources = gather("model.safetensors")
    assert sources.found.keys() == {"quantize"} and len(sources.notes) == 2


def test_a_report_of_a_folder_and_of_its_file_are_the_same(folder: Path) -> None:
    assert run(["report", ".", "-o", "a.html"]) == 0 and run(["report", "model.safetensors", "-o", "b.html"]) == 0
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    Page(Path("a.html").read_text())


def test_quantize_writes_a_report_of_its_file(folder: Path) -> None:
    job = ["quantize", "model.pth", "-o", "new.safetensors", "--method", "rtn", "--bits", "4.5", "--report", "new.html"]
    assert run(job) == 0
    page = Page(Path("new.html").read_text())
    assert "new.safetensors" in page.text and "times smaller than the original" in page.text
    assert "next to those of the original" in page.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["report", "nowhere.safetensors"], "nowhere.safetensors"),
        (["report", "model.pth"], "a report needs a packed file or a folder"),
        (["report", "empty"], "has neither a packed file nor cells"),
        (["report", "two"], "has 2 packed files; give one of them"),
        (["report", "model.safetensors", "-o", "empty"], "it is a directory"),
        (["report", "model.safetensors", "-o", "nowhere/a.html"], "there is no folder nowhere"),
        (["report", "model.safetensors", "-o", "model.safetensors"], "would replace model.safetensors"),
        (["report", "model.safetensors", "--original", "other.pth"], "has other sizes than model.safetensors"),
        (["report", "model.safetensors", "--original", "model.safetensors"], "is a packed file"),
        (["quantize", "model.pth", "-o", "x.safetensors", "--report", "nowhere/a.html"], "there is no folder nowhere"),
        (["quantize", "model.pth", "-o", "x.safetensors", "--report", "x.safetensors"], "would replace x.safetensors"),
        (["quantize", "model.pth", "--dry-run", "--report", "a.html"], "--report describes the file that is written"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_no_file(
    folder: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    Path("two").mkdir()
    for name in ("a", "b"):
        Path(f"two/{name}.safetensors").write_bytes(Path("model.safetensors").read_bytes())
    write_pth(folder / "other.pth", random_state_dict("rwkv7", layers=1, width=64))
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    assert run(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert words in lines[-1] and "Traceback" not in "".join(lines)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_places_of_tensors() -> None:
    assert place_of("blocks.3.att.key.weight") == (3, "att.key")
    assert place_of("blocks.12.att.w1") == (12, "att.w1")
    assert place_of("head.weight") is None


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 17.0), (0.001, 0.0011), (5.0, 1e6)])
def test_ticks_are_within_the_scale_and_few(low: float, high: float) -> None:
    for log in {False, low > 0}:
        ticks = svg.Scale(low, high, 0, 100, log).ticks()
        assert 2 <= len(ticks) <= 10 and all(low - 1e-9 <= tick <= high * (1 + 1e-9) for tick in ticks)


def test_sources_of_nothing_have_a_page() -> None:
    Page(html(Sources(None)))


def test_compare_gives_kl_by_position(folder: Path) -> None:
    Path("some.txt").write_text("The quick brown fox jumps over the lazy dog. " * 5)
    compared = rwkvquant.compare("model.pth", "model.safetensors", "some.txt", context=40)
    rows = compared.kl_by_position
    assert [(row.first, row.last) for row in rows] == [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 32), (33, 40)]
    assert sum(row.tokens for row in rows) == compared.tokens and rows[0].tokens == compared.windows
    assert sum(row.tokens * row.kl_mean for row in rows) / compared.tokens == pytest.approx(compared.kl_mean)
    write("compare.json", {"original": "model.pth", "quantised": "model.safetensors", **compared.to_json()})
    plot = next(plot for plot in plots(gather("model.safetensors")) if plot.key == "positions")
    assert [row[1] for row in plot.rows] == [f"{row.tokens:,}" for row in rows]


def test_what_a_tensor_is_multiplied_with_is_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first four tensors, and only for the checkpoint that the file was made from."""
    names = ["blocks.0.att.r_k", "blocks.0.att.x_k", "blocks.0.att.x_r", "blocks.0.ffn.x_k", "blocks.0.att.x_v"]
    for number, name in enumerate(names):
        capsys.readouterr()
        assert run(["activations", "model.pth", name, "--rows", "2", "--length", "64", "--json"]) == 0
        Path(f"activations{number}.json").write_text(capsys.readouterr().out)
    found = [json.loads(Path(f"activations{number}.json").read_text()) for number in range(len(names))]
    page = Page(html(gather("model.safetensors")))
    assert sum("activations" in attributes["aria-labelledby"] for attributes in page.all("section")) == 4
    for each in found[:4]:
        assert f"What {each['tensor']} is multiplied with" in page.text
        assert str(each["histogram"]["counts"][0]) in page.text and f"{each['min']:.4g}" in page.text
    write("activations0.json", {**found[0], "file": "other.pth"})
    write("activations1.json", {**found[1], "histogram": {"edges": [1, 0], "counts": [3], "normal": [2]}})
    text = Page(html(gather("model.safetensors"))).text
    assert f"What {names[0]}" not in text and f"What {names[1]}" not in text and f"What {names[4]}" in text
    assert "activations0.json is about another file" in text and "activations1.json looks like" in text
