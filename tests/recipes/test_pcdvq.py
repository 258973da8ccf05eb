"""The options of pcdvq, what they become, and a file made with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rwkvquant import QuantizeRequest
from rwkvquant.codecs import PolarConfig
from rwkvquant.errors import ConfigError, FormatError
from rwkvquant.formats.container import open_packed
from rwkvquant.pipeline.quantize import plan_only, quantize
from rwkvquant.recipes import recipe_for
from rwkvquant.runtime.session import load
from tests.fuzz.packed import put_together, take_apart
from tests.pipeline.toys import TINY, calibration_text, checkpoint_file


def recipe(*options: str, **said: object):
    return recipe_for(QuantizeRequest(method="pcdvq", own_options=options, **said))


def test_the_defaults_are_two_bits_rotated_with_feedback() -> None:
    made = recipe()
    (setting,) = made.candidates
    assert (setting.method, setting.codec, setting.codec.nominal_bits) == ("ldlq", PolarConfig(14, 2, "e8"), 2.0)
    assert made.transform == "hadamard" and made.calibrated and made.one_setting


def test_the_style_of_the_paper_has_no_feedback_and_reads_no_text() -> None:
    made = recipe(style="paper")
    assert made.candidates[0].method == "pcdvq" and made.transform == "hadamard" and not made.calibrated
    assert not made.quantizer.tuned and recipe("feedback=yes", style="paper").candidates[0].method == "ldlq"


def test_options_change_one_thing_each() -> None:
    made = recipe("direction_bits=16", "magnitude_bits=2", "directions=random", "rotation=no", "feedback=no")
    assert made.candidates[0].codec == PolarConfig(16, 2, "random") and made.candidates[0].codec.nominal_bits == 2.25
    assert made.transform == "none" and made.candidates[0].method == "pcdvq"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("direction_bits=11",), "direction_bits must be 12 to 16 for the method pcdvq; got 11"),
        (("magnitude_bits=5",), "magnitude_bits must be 1 to 4"),
        (("direction_bits=16", "magnitude_bits=3"), "must add up to 16, 17, 18 or 20 bits for 8 weights; got 16 and 3"),
        (("directions=kmeans",), "directions must be e8 or random"),
        (("rotation=maybe",), "rotation must be yes or no"),
    ],
)
def test_what_does_not_fit_is_one_sentence(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        recipe(*options)


@pytest.fixture(scope="module")
def packed_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pcdvq")
    calibration = calibration_text(folder)
    request = QuantizeRequest(method="pcdvq", own_options=("direction_bits=13", "magnitude_bits=3"), calibration=calibration)
    source = checkpoint_file(folder, "rwkv7", **TINY)
    result = quantize(source, folder / "out.safetensors", request)
    assert result.bits_per_weight == plan_only(source, request).bits_per_weight
    return folder / "out.safetensors"


def test_a_file_is_verified_and_speaks(packed_path: Path) -> None:
    packed = open_packed(packed_path)
    packed.verify()
    entry = packed.tensors["blocks.1.ffn.value.weight"]
    assert (entry.layout, entry.input_transform.name) == ("polar16.t16x8", "hadamard")
    assert np.isfinite(load(packed_path).forward([1, 2, 3])[0]).all()


def test_directions_of_another_maker_are_refused(packed_path: Path, tmp_path: Path) -> None:
    parts = take_apart(packed_path.read_bytes())
    next(entry for entry in parts.tensors() if entry["layout"].startswith("polar"))["directions_crc32"] ^= 1
    other = tmp_path / "other.safetensors"
    other.write_bytes(put_together(parts.header, b"".join(parts.arrays.values())))
    with pytest.raises(FormatError, match=r"this version makes the directions e8 of 13 bits with the CRC-32 .*; the file was made with"):
        open_packed(other)
