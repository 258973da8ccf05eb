"""What a specification means, and that every mistake in one is a sentence before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from rwkvquant.bench.shapes import RELEASED
from rwkvquant.errors import ConfigError
from rwkvquant.lab.kinds import Blocks, Quantized, ReadyFile
from rwkvquant.lab.spec import LabModel, Replacements, Spec, read_spec
from rwkvquant.lab.yaml_file import read_yaml

ROOT = Path(__file__).parents[2]
GOOD = """
models: {tiny: {checkpoint: tiny.pth, tokenizer: tokenizer.json}}
text: eval.txt
"""


def read(folder: Path, text: str, instead: Replacements | None = None) -> Spec:
    path = folder / "spec.yaml"
    path.write_text(text)
    return read_spec(path, instead)


def test_cells_are_models_by_requests_by_bits_by_seeds(tmp_path: Path) -> None:
    spec = read(
        tmp_path,
        """
        models: {a: a.pth, b: {checkpoint: b.pth, tokenizer: world}}
        text: eval.txt
        bits: [3.25, 3.5]
        seeds: [0, 7]
        common: {head_bits: 16}
        calibration: {rows: 4}
        requests:
          gptq: {method: gptq, damping: 0.1}
          fixed: {method: rtn, code_bits: 4, calibration: {length: 64}}
          llama: {file: "{model}.gguf", series: llama.cpp}
          ours: {gguf: q4_K}
        """,
    )
    labels = [(cell.model.name, cell.label, cell.seed) for cell in spec.cells]
    one = [("gptq 3.25", 0), ("gptq 3.25", 7), ("gptq 3.5", 0), ("gptq 3.5", 7), ("fixed", 0), ("fixed", 7), ("llama", 0), ("ours", 0)]
    assert labels == [(model, *row) for model in "ab" for row in one]
    assert spec.models[0] == LabModel("a", str(tmp_path / "a.pth"), None)
    assert spec.models[1].tokenizer == "world"
    first = spec.cells[1].kind
    assert isinstance(first, Quantized)
    request = first.request
    assert (request.bits, request.seed, request.damping, request.head_bits, request.calibration.rows) == (3.25, 7, 0.1, 16, 4)
    fixed = spec.cells[4].kind
    assert isinstance(fixed, Quantized) and (fixed.request.calibration.rows, fixed.request.calibration.length) == (4, 64)
    ready, blocks = spec.cells[6], spec.cells[15].kind
    assert isinstance(ready.kind, ReadyFile) and ready.kind.file == str(tmp_path / "a.gguf") and ready.series == "llama.cpp"
    assert isinstance(blocks, Blocks) and (blocks.gguf, blocks.calibration.rows) == ("q4_K", 4)


def test_the_command_line_replaces_models_and_texts(tmp_path: Path) -> None:
    text = GOOD + "requests: {gptq: {method: gptq}, llama: {file: x.gguf}}\nmax_tokens: 9"
    spec = read(tmp_path, text, Replacements((LabModel("mine", "m.pth"),), "t.txt", "c.txt", 50, "made"))
    assert {cell.model.checkpoint for cell in spec.cells} == {"m.pth"}
    assert (spec.text, spec.max_tokens) == ("t.txt", 50)
    gptq, llama = (cell.kind for cell in spec.cells)
    assert isinstance(gptq, Quantized) and gptq.request.calibration.path == "c.txt"
    assert isinstance(llama, ReadyFile) and llama.file == str(Path("made/x.gguf"))


def test_a_request_keeps_its_own_calibration_text_and_its_own_number_of_rows(tmp_path: Path) -> None:
    rows = "few: {calibration: {rows: 8}}, own: {calibration: {path: o.txt, rows: 9}}, short: {calibration: p.txt}"
    spec = read(tmp_path, GOOD + f"requests: {{{rows}}}", Replacements(calibration="c.txt"))
    found = {cell.row: cell.kind.calibration for cell in spec.cells if isinstance(cell.kind, Quantized)}
    assert {row: (each.path, each.rows) for row, each in found.items()} == {
        "few": ("c.txt", 8),
        "own": (str(tmp_path / "o.txt"), 9),
        "short": (str(tmp_path / "p.txt"), 128),
    }


MISTAKES = {
    "[1, 2]": "a specification must be names with values",
    "": "a specification must be names with values",
    "modles: {}": "no key 'modles'. Did you mean models?",
    "models: {a: 3}\ntext: t\nrequests: {x: {}}": "the model a must be names with values; got 3",
    "models: {a: {file: 3}}\ntext: t\nrequests: {x: {}}": "a checkpoint and a tokenizer; got 'file'",
    "models: {a: {tokenizer: t}}\ntext: t\nrequests: {x: {}}": "the model a needs a path as its checkpoint",
    GOOD: "requests must be names with values",
    GOOD + "requests: {}": "requests must name at least one",
    GOOD + "requests: {7: {}}": "a name is a string",
    GOOD + 'requests: {"a\\nb": {}}': "on one line",
    GOOD + f"requests: {{{'a' * 81}: {{}}}}": "1 to 80 characters",
    GOOD + "requests: {x: {method: gtpq}}": "the request x: method must be one of",
    GOOD + "requests: {x: {metod: gptq}}": "no option metod. Did you mean method?",
    GOOD + "requests: {x: {method: gptq, bits: 99}}": "bits must be above 0 and at most 16",
    GOOD + "requests: {x: {method: rtn, damping: 1e-3}}": "damping must be a number; got '1e-3'",
    GOOD + "requests: {x: {seed: 3}}": "give the list seeds",
    GOOD + "requests: {x: {tokenizer: t}}": "give it with the model",
    GOOD + "common: {adapter: t}\nrequests: {x: {}}": "the laboratory has none",
    GOOD + "requests: {x: {gguf: q4_k}}": "Did you mean q4_K?",
    GOOD + "requests: {x: {gguf: [q4_K]}}": "gguf must be one of",
    GOOD + "requests: {x: {gguf: q4_K, bits: 3}}": "gguf stands alone",
    GOOD + "requests: {x: {file: 3}}": "file stands alone, with a string",
    GOOD + "requests: {x: {series: 3}}": "series must be a name",
    GOOD + "requests: {x: {calibration: {row: 3}}}": "no option row. Did you mean rows?",
    GOOD + "requests: {x: {calibration: {path: 3}}}": "calibration path must be a string",
    GOOD + "requests: {x: {}}\nbits: 3": "bits must be a list of numbers; got 3",
    GOOD + "requests: {x: {}}\nbits: [.inf]": "bits must be a list of numbers",
    GOOD + "requests: {x: {}}\nseeds: [-1]": "seeds must be a list of whole numbers",
    GOOD + "requests: {x: {}}\nseeds: []": "seeds must be a list of whole numbers",
    GOOD + f"requests: {{x: {{}}}}\nseeds: {list(range(10001))}": "at most 10,000 cells",
    GOOD + "requests: {x: {}}\ncontext: 0": "context must be a whole number from 1 on; got 0",
    GOOD + "requests: {x: {}}\ncontext: 0x" + "f" * 9000: "context must be a whole number",
    GOOD + "requests: {x: {}}\nmax_tokens: true": "max_tokens must be a whole number",
    GOOD + "requests: {x: {}}\nforwards: [engine]": "forwards: a forward is torch, native, or int2 to int8 such as int4 or int4/32",
    GOOD + "requests: {x: {}}\nforwards: int4": "forwards must be a list of names; got 'int4'",
    GOOD + "requests: {x: {}}\nreference: y": "reference must be one of the requests; got 'y'",
    GOOD + "requests: {x: {}}\nplot: speed": "plot must be bits_per_weight or file_bytes",
    "models: {a: a.pth}\nrequests: {x: {}}": "needs a text to measure on",
    "models: {a: }\ntext: t\nrequests: {x: {}}": "the model a has no checkpoint here; give it with --model a=CHECKPOINT",
    GOOD + "requests: {x: {study: gaps}}": "a study has no text; a specification of one has title, models",
    "models: {a: a.pth}\nrequests: {x: {study: gasp}}": "activation, thresholds, speed; got gasp. Did you mean gaps?",
    "models: {a: a.pth}\nrequests: {x: {study: [gaps]}}": "study must be one of",
    "models: {a: a.pth}\nrequests: {x: {study: gaps, bits: 3}}": "the study gaps has no option bits; it has none",
    "models: {a: a.pth}\nrequests: {x: {study: thresholds, dtype: float8}}": "dtype must be bfloat16, or be left out; got float8",
    "models: {a: a.pth}\nrequests: {x: {study: activation}}": "the study activation needs a tensor",
    "models: {a: x070-0.1b}\nrequests: {x: {study: speed, layouts: rwos}}": "layouts must be one of default, rows",
    "models: {a: x070-0.1b}\nrequests: {x: {study: speed, bits: 17}}": "bits must be above 0 and at most 16; got 17",
    "models: {a: x070-0.1b}\nrequests: {x: {study: speed, rounds: 0}}": "rounds must be a whole number from 1 on; got 0",
    "models: {a: x070-0.1b}\nrequests: {x: {study: speed, threads: true}}": "threads must be a whole number from 1 on; got True",
    "models: {a: a.pth}\nrequests: {x: {study: gaps}, y: {}}": "all of one study, or none is",
    "models: {a: a.pth}\nreference: x\nrequests: {x: {study: gaps}}": "reference must be one of the models; got 'x'",
    "a: &a [1]\nb: *a": "aliases (*name) are not read",
    "text: a\ntext: b": "'text' is there twice",
    "a: [": "is not valid YAML (line 1): expected",
    "a: !!python/object/apply:os.system [ls]": "is not valid YAML",
    "a: " + "9" * 5000: "is not valid YAML",
    "[" * 4000: "nested too deeply",
    "{[1]: 2}": "is not valid YAML",
    "\x00": "is not valid YAML",
}


@pytest.mark.parametrize("text", MISTAKES, ids=list(MISTAKES.values()))
def test_a_mistake_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(tmp_path, text)
    assert MISTAKES[text] in str(error.value) and str(error.value).startswith(str(tmp_path / "spec.yaml"))
    assert len(str(error.value)) < 1000


def test_files_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\xd8")
    (tmp_path / "large").write_bytes(b"#" * ((1 << 20) + 1))
    for name, words in (("bytes", "is not valid YAML"), ("large", "at most 1 MiB"), ("none", "there is no such file"), (".", "directory")):
        with pytest.raises(ConfigError, match=words):
            read_spec(tmp_path / name)


SPECS = sorted((ROOT / "lab").glob("*.yaml"))


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_specifications_of_the_repository_can_run(path: Path) -> None:
    elsewhere = tuple(LabModel(name, "elsewhere") for name, model in read_yaml(path)["models"].items() if model is None)
    spec = read_spec(path, Replacements(elsewhere))
    assert spec.title != spec.name and (spec.study or Path(spec.text).is_file())
    for model in spec.models:
        assert model in elsewhere or Path(model.checkpoint).is_file() or model.checkpoint in RELEASED
        assert spec.study or model in elsewhere or Path(str(model.tokenizer)).is_file()


def test_a_model_without_a_checkpoint_gets_that_of_the_command_line(tmp_path: Path) -> None:
    """And one of another name stands in place of all."""
    text = "models: {a: a.pth, b: }\ntext: t\nrequests: {x: {method: rtn}}"
    b, other = LabModel("b", "b.pth", "world"), LabModel("c", "c.pth")
    assert read(tmp_path, text, Replacements((b,))).models == (LabModel("a", str(tmp_path / "a.pth")), b)
    assert read(tmp_path, text, Replacements((b, other))).models == (b, other)
    assert read(tmp_path, text, Replacements((LabModel("a", "mine.pth"),))).models == (LabModel("a", "mine.pth"),)
