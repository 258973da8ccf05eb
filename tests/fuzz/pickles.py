"""The pickle of a .pth cut into opcodes, and changes of these: other numbers, other names, harmful calls."""

from __future__ import annotations

import pickle
import pickletools
import struct

from tests.fuzz.choices import Choices

NUMBERS = (0, 1, -1, 2, 3, 255, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 40, 1 << 62, 1 << 63, 1 << 64, 1 << 2000)
NAMES = (
    *(b"ctorch\nFloatStorage\n", b"ctorch\nHalfStorage\n", b"ctorch\nBFloat16Storage\n", b"ctorch\nDoubleStorage\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch._utils\n_rebuild_parameter\n"),
    *(b"ccollections\nOrderedDict\n", b"ctorch\nSize\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"c\n\n", b"c\xff\n\xff\n"),
)
HOSTILE = (
    *(b"R", b"b", b"Q", b"o", b"\x81", b"\x93", b"0", b"1", b"2", b"(", b"t", b"l", b"d", b"}", b"]", b")", b"u", b"s", b"a", b"e", b"."),
    *(b"N", b"\x88", b"\x89", b"\x85", b"\x86", b"\x87", b"\x94", b"\x8f", b"\x91", b"\x97", b"\x98"),
    b"\x80\xff",  # a protocol that does not exist
    b"\x8d" + struct.pack("<Q", 1 << 62),  # text longer than any file
    b"\x8e" + struct.pack("<Q", 1 << 40),
    b"B" + struct.pack("<I", 0xFFFFFFFF),
    b"\x8b" + struct.pack("<i", 0x7FFFFFFF),  # a number of two billion bytes
    b"\x8b" + struct.pack("<i", 3000) + b"\x7f" * 3000,
    b"\x95" + struct.pack("<Q", 1 << 62),
    b"r" + struct.pack("<I", 0xFFFFFFFF),
    b"j" + struct.pack("<I", 0xFFFFFFFF),
    b"I" + b"9" * 5000 + b"\n",
    b"F1e999\n",
    b"iposix\nsystem\n",
    b"\x82\x01",
    b"P0\n",
    b"(" * 2000,
    b"]" + b"\x85" * 2000,  # tuples in tuples
    b"X\x02\x00\x00\x00\xff\xff",
)


def cut(index: bytes) -> list[bytes]:
    """One piece for each opcode with its argument."""
    starts = [position for _, _, position in pickletools.genops(index) if position is not None]
    return [index[begin:end] for begin, end in zip(starts, [*starts[1:], len(index)], strict=True)]


def change(pieces: list[bytes], choices: Choices) -> None:
    """One change, in place."""
    if not pieces:
        return
    kind, at = choices.below(7), choices.below(len(pieces))
    if kind == 0:
        numbers = [i for i, piece in enumerate(pieces) if piece[:1] in (b"K", b"M", b"J", b"\x8a")]
        if numbers:
            pieces[choices.one_of(numbers)] = number(choices.one_of(NUMBERS))
    elif kind == 1:
        names = [i for i, piece in enumerate(pieces) if piece[:1] == b"c"]
        if names:
            pieces[choices.one_of(names)] = choices.one_of(NAMES)
    elif kind == 2:
        texts = [i for i, piece in enumerate(pieces) if piece[:1] in (b"X", b"\x8c")]
        if len(texts) > 1:
            pieces[choices.one_of(texts)] = pieces[choices.one_of(texts)]
    elif kind == 3:
        pieces.insert(at, choices.one_of((*HOSTILE, *NAMES)))
    elif kind == 4:
        pieces[at] = choices.one_of(HOSTILE)
    elif kind == 5:
        pieces.insert(at, choices.one_of(pieces))
    else:
        del pieces[at]


def number(value: int) -> bytes:
    return pickle.dumps(value, 2)[2:-1]
