"""A claim holds, does not, or cannot be told, by the paired interval of the ratio of two cells."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rwkvquant.cli.main import run
from rwkvquant.errors import ConfigError
from rwkvquant.lab.claims import claims_text, read_claims
from rwkvquant.lab.store import Store

ROOT = Path(__file__).parents[2]
TOKENS = [100] * 20


def cell(key: str, kl: list[float], windows: str = "w") -> dict[str, Any]:
    mean = sum(kl) / sum(TOKENS)
    return {
        "key": key,
        "label": key,
        "state": "done",
        "results": {"kl_mean": mean, "windows_sha256": windows, "each_window": {"tokens": TOKENS, "kl": kl}},
    }


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Cells of known KL: b is twice a in every window; c is a in half of them and three times a in the others; d has other windows."""
    store = Store(tmp_path / "work")
    a = [1.0 + 0.1 * i for i in range(20)]
    cells = {"a": a, "b": [2 * x for x in a], "c": [x * (3 if i % 2 else 1) for i, x in enumerate(a)], "d": a}
    for name, kl in cells.items():
        store.write(name, cell(name, kl, "other" if name == "d" else "w"))
    rows = [{"key": n, "model": "m", "row": n, "series": n, "label": n, "bits": None, "seed": 0} for n in [*cells, "missing"]]
    store.write_spec("s", {"title": "t", "reference": None, "plot": "file_bytes", "rows": rows})
    return tmp_path / "work"


def verdict(work: Path, rows: str, below: float) -> str:
    path = work / "claims.yaml"
    path.write_text(f"title: T\nclaims:\n  - {{claim: C | c, paper: p, rows: [{rows}], below: {below}, note: n}}\n")
    return claims_text(work, path).splitlines()[4]


@pytest.mark.parametrize(
    ("rows", "below", "words"),
    [
        ("s/a, s/b", 0.6, "| m | KL x 0.500 [0.500, 0.500] | holds |"),
        ("s/a, s/b", 0.4, "| m | KL x 0.500 [0.500, 0.500] | does not hold |"),
        ("s/c, s/a", 2.03, "| cannot tell |"),
        ("s/c, s/a", 9, "| holds |"),
        ("s/a, s/missing", 1, "|  |  | not measured |"),
        ("s/a, s/d", 1, "|  |  | not measured |"),
        ("s/a, t/b", 1, "|  |  | not measured |"),
    ],
)
def test_the_verdict_is_that_of_the_interval(work: Path, rows: str, below: float, words: str) -> None:
    line = verdict(work, rows, below)
    assert line.startswith("| C / c | p |") and line.endswith(words)


@pytest.mark.parametrize(
    ("bound", "verdicts"),
    [
        ("below: 3", ["holds", "cannot tell"]),
        ("below: 1", ["does not hold", "does not hold"]),
        ("above: 1", ["holds", "holds"]),
        ("above: 5", ["does not hold", "does not hold"]),
    ],
)
def test_numbers_of_a_benchmark_are_judged_by_their_intervals(work: Path, bound: str, verdicts: list[str]) -> None:
    (work / "numbers.json").write_text(json.dumps({"all": {"plain": 2, "measured": {"value": 3.0, "ci95": [2.5, 4.0]}}}))
    values = "{one: [all, plain], two: [all, measured]}"
    (work / "claims.yaml").write_text(f"title: T\nclaims:\n  - {{claim: C, json: numbers.json, values: {values}, {bound}, unit: times}}\n")
    lines = claims_text(work, work / "claims.yaml").splitlines()[4:6]
    assert lines == [f"| C |  | one | 2 times | {verdicts[0]} |", f"|  |  | two | 3 [2.5, 4] times | {verdicts[1]} |"]


@pytest.mark.parametrize(("below", "found"), [(2.1, "holds"), (1, "cannot tell"), (0.6, "does not hold")])
def test_the_ratios_of_two_models_are_compared(work: Path, below: float, found: str) -> None:
    """In the small model b is twice a. In the large one c over a is 2 with an interval, of which the quotient has both ends."""
    keys = {("small", "x"): "b", ("small", "y"): "a", ("large", "x"): "c", ("large", "y"): "a"}
    rows = [{"key": k, "model": m, "row": n, "series": n, "label": n, "bits": None, "seed": 0} for (m, n), k in keys.items()]
    Store(work).write_spec("two", {"title": "t", "reference": None, "plot": "file_bytes", "rows": rows})
    path, claim = work / "claims.yaml", f"claim: C, rows: [two/x, two/y], below: {below}"
    entries = (claim, f"{claim}, models: [small, large]", f"{claim}, models: [small, other]")
    path.write_text("title: T\nclaims:\n" + "".join(f"  - {{{entry}}}\n" for entry in entries))
    large, _, quotient, other = claims_text(work, path).splitlines()[4:8]
    value, low, high = (float(number) for number in re.findall(r"[\d.]+", large))
    assert low < value < high
    assert quotient == f"| C |  | small over large | {2 / value:.3f} [{2 / high:.3f}, {2 / low:.3f}] | {found} |"
    assert other == "| C |  |  |  | not measured |"


def test_a_row_of_one_model_is_compared_with_a_row_of_another(work: Path) -> None:
    keys = {("edited", "x"): "b", ("plain", "y"): "a", ("plain", "x"): "c"}
    rows = [{"key": k, "model": m, "row": n, "series": n, "label": n, "bits": None, "seed": 0} for (m, n), k in keys.items()]
    Store(work).write_spec("two", {"title": "t", "reference": None, "plot": "file_bytes", "rows": rows})
    path = work / "claims.yaml"
    claim = "claim: C, rows: [two/x, two/y], below: 2.1, across"
    path.write_text(f"title: T\nclaims:\n  - {{{claim}: {{edited: plain}}}}\n  - {{{claim}: {{edited: other, other: plain}}}}\n")
    assert claims_text(work, path).splitlines()[4:6] == [
        "| C |  | edited over plain | KL x 2.000 [2.000, 2.000] | holds |",
        "| C |  |  |  | not measured |",
    ]


def test_a_number_is_divided_by_another_one_of_the_file(work: Path) -> None:
    (work / "numbers.json").write_text(json.dumps({"all": [{"ours": {"value": 6.0, "ci95": [5.0, 8.0]}, "theirs": 2}, {"ours": 6}]}))
    names = "values: {one: [all, 0, ours], two: [all, 1, ours]}, over: {one: [all, 0, theirs]}"
    (work / "claims.yaml").write_text(f"title: T\nclaims:\n  - {{claim: C, json: numbers.json, {names}, above: 5, unit: times}}\n")
    lines = claims_text(work, work / "claims.yaml").splitlines()[4:6]
    assert lines == ["| C |  | one | 3 [2.5, 4] times | does not hold |", "|  |  | two | 6 times | holds |"]


def test_the_command_writes_the_page(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verdict(work, "s/a, s/b", 0.6)
    assert run(["lab", "claims", str(work), str(work / "claims.yaml"), "-o", str(work / "page.md")]) == 0
    page = (work / "page.md").read_text()
    assert page.startswith("# T\n") and page.endswith("- C / c: n\n")
    assert run(["lab", "claims", str(work), str(work / "claims.yaml")]) == 0 and page in capsys.readouterr().out


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "claims: []",
        "title: T\nclaims: [3]",
        "title: T\nclaims: [{paper: p}]",
        "title: T\nclaims: [{claim: C, row: p}]",
        "title: T\nclaims: [{claim: C, rows: [a/b]}]",
        "title: T\nclaims: [{claim: C, rows: [a, b]}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], below: x}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], models: [m]}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], models: [1, 2]}]",
        "title: T\nclaims: [{claim: C, models: [m, n]}]",
        "title: T\nclaims: [{claim: C, across: {m: n}}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], across: [m, n]}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], across: {m: 1}}]",
        "title: T\nclaims: [{claim: C, rows: [a/b, c/d], models: [m, n], across: {m: n}}]",
        "title: T\nclaims: [{claim: C, json: none.json, values: {m: a}, below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, c]}, below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, b]}}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, b]}, below: 1, above: 2}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: [a], below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, b]}, over: {m: [a, c]}, below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, b]}, over: {n: [a, b]}, below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [d, 2]}, below: 1}]",
        "title: T\nclaims: [{claim: C, json: numbers.json, values: {m: [a, b]}, below: 1, rows: [a/b, c/d]}]",
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(text)
    (tmp_path / "numbers.json").write_text('{"a": {"b": 2, "c": "3"}, "d": [1, 2]}')
    with pytest.raises(ConfigError, match=r"claims\.yaml"):
        read_claims(path)


def test_the_page_of_the_repository_is_made_from_its_cells() -> None:
    results = ROOT / "benchmarks/results/lab"
    assert (ROOT / "docs/claims.md").read_text() == claims_text(results, ROOT / "lab/claims/rwkvquant.yaml")
    for path in results.glob("cells/*.json"):
        assert json.loads(path.read_text())["state"] == "done"
