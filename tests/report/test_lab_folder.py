"""A report of a work directory of `lab run` shows each of its cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rwkvquant.lab.run import run_spec
from rwkvquant.lab.spec import read_spec
from rwkvquant.report.page import html
from rwkvquant.report.sources import gather
from tests.helpers import random_state_dict, write_pth
from tests.report.test_report import HOSTILE, Page

SPEC = f"""
title: "Rounding {HOSTILE}"
models: {{small: model.pth}}
text: some.txt
context: 128
bits: [4.5, 6.5]
calibration: {{path: some.txt, rows: 2, length: 64}}
requests:
  rtn: {{method: rtn}}
  gptq: {{method: gptq, bits: 4.5}}
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_pth(Path("model.pth"), random_state_dict("rwkv7", layers=1, width=64))
    Path("some.txt").write_text("The quick brown fox jumps over the lazy dog, and the dog does not mind. " * 12)
    Path("spec.yaml").write_text(SPEC)
    assert run_spec(read_spec("spec.yaml"), "work").done == 3
    return Path("work")


def test_every_cell_is_a_point_with_its_numbers(work: Path) -> None:
    text = html(gather(work))
    page = Page(text)
    cells = [json.loads(path.read_text()) for path in work.glob("cells/*.json")]
    assert len(cells) == 3
    for cell in cells:
        results = cell["results"]
        for words in (f"{results['kl_mean']:.4g}", f"{results['bits_per_weight']:.3f}".rstrip("0").rstrip(".")):
            assert words in page.text, (words, cell["label"])
    assert any("frontier" in attributes["aria-labelledby"] for attributes in page.all("section"))
    assert "<script" not in text and "Rounding </style>" in page.text


def test_a_cell_that_failed_or_is_missing_is_no_point(work: Path) -> None:
    first, second, _ = sorted(work.glob("cells/*.json"))
    known = [json.loads(path.read_text())["results"]["kl_mean"] for path in (first, second)]
    first.unlink()
    failed = json.loads(second.read_text())
    second.write_text(json.dumps({**failed, "state": "failed", "error": "no memory", "results": {}}))
    text = Page(html(gather(work))).text
    assert all(f"{kl:.4g}" not in text for kl in known)


def test_all_cells_missing_still_make_a_page(work: Path) -> None:
    for path in work.glob("cells/*.json"):
        path.unlink()
    assert "Rounding" in Page(html(gather(work))).text
