"""Hostile pickles: each tries to create a file. Python's own unpickler runs them; ours refuses them and names what they ask for."""

from __future__ import annotations

import argparse
import contextlib
import copyreg
import io
import os
import pickle
import pickletools
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rwkvquant.checkpoints.pth import PthFile
from rwkvquant.checkpoints.unpickler import ORDERED_DICT, PARAMETER, TENSOR, TENSOR_V3, read_pickle
from rwkvquant.errors import CheckpointError
from tests.checkpoints.writers import global_, push, tensor_index, write_zip

SYSTEM = f"{os.system.__module__}.system"  # posix.system
EXTENSION = 77


class Victim(pickle.Unpickler):
    """Python's unpickler, with but with None for each tensor of a checkpoint."""

    def persistent_load(self, identity: object) -> None:
        return None

    def find_class(self, module: str, name: str) -> object:
        return (lambda *arguments: None) if module.startswith("torch") else super().find_class(module, name)


class Reduce:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def hostile_pickles(command: str) -> dict[str, tuple[bytes, str]]:
    """name -> (a pickle that runs `command`, what the refusal names)"""
    text = push(command)
    return {
        "reduce": (pickle.dumps({"x": Reduce(command)}, 2), SYSTEM),
        "stack_global": (pickle.dumps({"x": Reduce(command)}, 4), SYSTEM),
        "text protocol": (pickle.dumps({"x": Reduce(command)}, 0), "DICT"),
        "eval": (b"\x80\x02" + global_("builtins.eval") + b"(" + push(f"__import__('os').system({command!r})") + b"tR.", "builtins.eval"),
        "inst": (b"(" + text + global_(SYSTEM).replace(b"c", b"i", 1) + b".", rf"INST \({SYSTEM.replace('.', ' ')}\)"),
        "obj": (b"(" + global_(SYSTEM) + text + b"o.", SYSTEM),
        "ext1": (b"\x80\x02\x82" + bytes([EXTENSION]) + b"(" + text + b"tR.", rf"EXT1 \({EXTENSION}\)"),
        "ext4": (b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + b"(" + text + b"tR.", rf"EXT4 \({EXTENSION}\)"),
        "hidden in a checkpoint": (tensor_index()[:-1] + push("y") + global_(SYSTEM) + b"(" + text + b"tRs.", SYSTEM),
        "after the tensors, dropped": (tensor_index()[:-1] + global_(SYSTEM) + b"(" + text + b"tR0.", SYSTEM),
    }


@pytest.fixture
def extension() -> Iterator[None]:
    """EXT opcodes name things by numbers that a process has registered: let EXTENSION be subprocess.getoutput."""
    copyreg.add_extension("subprocess", "getoutput", EXTENSION)
    yield
    copyreg.remove_extension("subprocess", "getoutput", EXTENSION)


@pytest.mark.parametrize("name", hostile_pickles(""))
@pytest.mark.usefixtures("extension")
def test_a_pickle_that_runs_a_command_is_refused_by_name_and_not_run(tmp_path: Path, name: str) -> None:
    trace = tmp_path / "ran"
    content, named = hostile_pickles(f"touch {trace}")[name]
    with pytest.raises(CheckpointError, match=f"{named}.*nothing was run"):
        PthFile(write_zip(tmp_path / "a.pth", content))
    assert not trace.exists()
    Victim(io.BytesIO(content)).load()  # shows that the pickle refused above does run its command
    assert trace.exists()


def test_build_calls_no_setstate() -> None:
    """BUILD on what REDUCE gave would call __setstate__, and BUILD with a dict sets attributes, __setstate__ among them."""
    empty = b"\x80\x02" + global_("collections.OrderedDict") + b")R"
    assert read_pickle(empty + b"}" + push("__setstate__") + b"K\x01sb.") == {}
    with pytest.raises(CheckpointError, match="fills a Global"):
        read_pickle(b"\x80\x02" + global_("collections.OrderedDict") + b"}" + push("__setstate__") + b"K\x01sb.")
    with pytest.raises(CheckpointError, match="fills a StoredTensor"):
        read_pickle(tensor_index()[:-2] + b"}b.")


@pytest.mark.parametrize(
    "name", ["torch.load", "torch.jit.load", "torch.storage._load_from_bytes", "torch._utils._rebuild_wrapper_subclass"]
)
def test_dangerous_names_of_torch_are_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match=f"asks for {name}"):
        read_pickle(b"\x80\x02" + global_(name) + b")R.")


def test_allowed_names_are_not_called_with_other_arguments() -> None:
    for arguments in (b"(K\x01t", b"((K\x01K\x02ttt"[:-1]):
        with pytest.raises(CheckpointError, match=r"calls collections\.OrderedDict as torch\.save does not"):
            read_pickle(b"\x80\x02" + global_("collections.OrderedDict") + arguments + b"R.")
    with pytest.raises(CheckpointError, match=r"calls torch\.FloatStorage as"):
        read_pickle(b"\x80\x02" + global_("torch.FloatStorage") + b")R.")
    with pytest.raises(CheckpointError, match="calls dict as"):
        read_pickle(b"\x80\x02})R.")


def test_settings_and_an_optimizers_state_are_read_if_built_from_the_same_types() -> None:
    state = {"state": {0: {"step": 3.0, "betas": (0.9, None)}, -1: [True, []]}, "size": (2, 3)}
    assert read_pickle(pickle.dumps(state, 2)) == state
    assert read_pickle(b"\x80\x02" + global_("torch.Size") + push((2, 3)) + b"\x85R.") == (2, 3)
    for wrong in (b"\x80\x02" + global_("torch.Size") + push("x") + b"\x85R.", pickle.dumps({(1, 2): 3}, 2), pickle.dumps({1.0: 3}, 2)):
        with pytest.raises(CheckpointError, match=r"calls torch\.Size as|keys of a dict of tensors are strings; got a (tuple|float)"):
            read_pickle(wrong)
    with pytest.raises(CheckpointError, match=r"asks for argparse\.Namespace"):
        read_pickle(pickle.dumps(argparse.Namespace(lr=1), 2))


def test_a_name_cannot_forge_the_message() -> None:
    with pytest.raises(CheckpointError) as caught:
        read_pickle(b"\x80\x04" + push("os\n\x1b[2J") + push("system" * 1000) + b"\x93.")
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


ALLOWED = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE EMPTY_TUPLE TUPLE TUPLE1
    TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID BINPUT LONG_BINPUT
    BINGET LONG_BINGET MEMOIZE
"""


@pytest.mark.parametrize("opcode", [opcode.name for opcode in pickletools.opcodes if opcode.name not in ALLOWED.split()])
def test_every_other_opcode_is_refused_by_name(opcode: str) -> None:
    code = next(o.code for o in pickletools.opcodes if o.name == opcode).encode("latin-1")
    in_text = {"INST": b"os\nsystem\n", "STRING": b"'a'\n"} | dict.fromkeys(["INT", "LONG", "FLOAT", "GET", "PUT"], b"1\n")
    argument = in_text.get(opcode, b"\0" * 8 + b"\n")
    with pytest.raises(CheckpointError, match=rf"uses {opcode}\b"):
        read_pickle(b"\x80\x02})" + code + argument + b".")


@pytest.mark.parametrize("content", [b"(.", b"(q\x00.", b"(\x85.", b"}(K\x01s."])
def test_a_mark_is_not_a_value(content: bytes) -> None:
    with pytest.raises(CheckpointError, match="mark where a value should be"):
        read_pickle(content)


def test_a_huge_memo_index_costs_nothing() -> None:
    """Python's C unpickler allocates every index up to the largest: 32 GB here."""
    assert read_pickle(b"\x80\x02}r\xff\xff\xff\x7fj\xff\xff\xff\x7f0.".replace(b"0.", b".")) == {}


def test_tuples_that_double_in_size_are_not_expanded() -> None:
    doubling = b"\x80\x02)" + b"".join(b"q\x00h\x00\x86" for _ in range(200))
    for ending in (b".", b"Q.", b"}h\x00K\x01s.", global_("collections.OrderedDict") + b"h\x00R."):
        try:
            read_pickle(doubling + ending)
        except CheckpointError as error:
            assert len(str(error)) < 200


def test_very_long_pickles_are_refused() -> None:
    with pytest.raises(CheckpointError, match="too long"):
        read_pickle(b"\x80\x02" + b"(" * 200_000)
    with pytest.raises(CheckpointError, match="too long"):
        read_pickle(b"\x80\x02}" + b"q\x00" * 1_000_001 + b".")


def test_the_unpickler_does_not_import_pickle() -> None:
    from rwkvquant.checkpoints import unpickler

    assert "pickle" not in vars(unpickler) and "importlib" not in vars(unpickler)
    assert sys.modules["pickletools"] is vars(unpickler)["pickletools"]


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.binary(max_size=60))
def test_random_bytes_end_in_a_value_or_a_checkpoint_error(content: bytes) -> None:
    for start in (b"", b"\x80\x02"):
        with contextlib.suppress(CheckpointError):
            read_pickle(start + content)


PIECES = [bytes([opcode]) for opcode in b"})](tusbQR.\x85\x86\x87\x88\x89Na0\x94"]
PIECES += [b"q\x01", b"h\x01", b"K\x05", tensor_index()[2:-1]]
PIECES += [push(value) for value in ("storage", "0", "x", (2, 3), (3, 1))]
PIECES += [global_(name) for name in (ORDERED_DICT, TENSOR, TENSOR_V3, PARAMETER, "torch.FloatStorage", "torch.uint16")]


@settings(max_examples=1500, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_allowed_opcodes_in_any_order_end_in_a_value_or_a_checkpoint_error(pieces: list[bytes]) -> None:
    with contextlib.suppress(CheckpointError):
        read_pickle(b"\x80\x02" + b"".join(pieces) + b".")
