"""Read the pickle inside a .pth safely. It can build only dicts, tuples, lists, numbers, strings and descriptions of tensors.

A pickle is a program. Python's unpickler runs it: it imports what the file names, and calls it. The machine below imports nothing
and calls nothing. `pickletools` splits the bytes into opcodes. The opcodes that torch.save writes are carried out below; all
others are refused by name. A global name is only compared with the few that a dict of tensors needs.

    tensor   = _rebuild_tensor_v2(storage, offset, shape, strides, requires_grad, hooks)
    storage  = persistent id ("storage", torch.HalfStorage, key, device, number of elements); its bytes are the member data/<key>

Other values of a training run (epochs, settings, an optimizer's state) are skipped, if they are built from the same few types.
Limit: everything that needs another class is refused (pickled modules, argparse.Namespace). Never imports pickle.
"""

from __future__ import annotations

import pickletools
import reprlib
from dataclasses import dataclass
from typing import Any

from rwkvquant.errors import CheckpointError

# An index has 100 to 150 bytes and about 18 opcodes per tensor; the largest RWKV-6 has 1,500 tensors.
MAX_BYTES = 16 << 20
MAX_OPCODES = 1_000_000
MAX_STACK = 100_000
MAX_DIMENSIONS = 8

ORDERED_DICT, SIZE = "collections.OrderedDict", "torch.Size"
TENSOR, TENSOR_V3, PARAMETER = (f"torch._utils._rebuild_{kind}" for kind in ("tensor_v2", "tensor_v3", "parameter"))
STORAGES = {
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    # The next ones are recognised only so that the error message can name the tensor and its dtype.
    "torch.DoubleStorage": "float64",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "untyped",  # of dtypes newer than storages with types: float8, uint16 (tensor_v3)
}
FLOAT8 = [f"float8_{kind}" for kind in ("e4m3fn", "e5m2", "e4m3fnuz", "e5m2fnuz", "e8m0fnu")]
V3_DTYPES = {f"torch.{name}" for name in ["uint16", "uint32", "uint64", *FLOAT8]}
KNOWN_NAMES = {ORDERED_DICT, SIZE, TENSOR, TENSOR_V3, PARAMETER, *STORAGES, *V3_DTYPES}


@dataclass(frozen=True)
class Global:
    """A name that Python's unpickler would import. Here it stays a name."""

    name: str


@dataclass(frozen=True)
class Storage:
    """A flat array of `numel` elements, in the zip member data/<key>."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True)
class StoredTensor:
    """A view of a storage. Offset and strides count elements. They have not been checked against the storage."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Mark:
    """Marks the place on the stack where a tuple, or the items of a list or dict, begin."""


MARK = _Mark()
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
VALUES = {"BINUNICODE", "SHORT_BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT"}
PUTS, GETS = {"BINPUT", "LONG_BINPUT"}, {"BINGET", "LONG_BINGET"}
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def read_pickle(data: bytes | memoryview) -> Any:
    """The object that `data` describes. Bad bytes of any kind raise CheckpointError; nothing that they name is run."""
    if len(data) > MAX_BYTES:
        raise CheckpointError(
            f"the index of tensors may have at most {MAX_BYTES >> 20} MB; got {len(data) >> 20} MB, so it is not a plain dict of tensors"
        )
    try:
        return _Machine().run(bytes(data))
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:  # pickletools raises these for bytes that are no pickle
        raise CheckpointError(f"the index of tensors (data.pkl) is damaged ({error})") from error


class _Machine:
    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES or len(self.stack) > MAX_STACK:
                raise CheckpointError("the index of tensors is too long for a plain dict of tensors")
            if opcode.name == "STOP":
                return self.pop()
            self.step(opcode.name, argument)
        raise CheckpointError("the index of tensors ends too early")

    def step(self, opcode: str, argument: Any) -> None:
        push = self.stack.append
        if opcode in VALUES:
            push(argument)
        elif opcode in CONSTANTS:
            push(CONSTANTS[opcode])
        elif opcode in PUTS:
            self.memo[argument] = self.top()
        elif opcode == "MEMOIZE":
            self.memo[len(self.memo)] = self.top()
        elif opcode in GETS:
            push(self.memo[argument])
        elif opcode == "MARK":
            push(MARK)
        elif opcode == "TUPLE":
            push(tuple(self.pop_to_mark()))
        elif opcode in TUPLES:
            push(tuple(reversed([self.pop() for _ in range(TUPLES[opcode])])))
        elif opcode == "EMPTY_DICT":
            push({})
        elif opcode == "EMPTY_LIST":
            push([])
        elif opcode in ("APPEND", "APPENDS"):
            items = [self.pop()] if opcode == "APPEND" else self.pop_to_mark()
            self.top_is(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [self.pop(), self.pop()][::-1] if opcode == "SETITEM" else self.pop_to_mark()
            set_items(self.top_is(dict), items)
        elif opcode == "GLOBAL":
            push(known(argument.replace(" ", ".", 1)))
        elif opcode == "STACK_GLOBAL":
            name, module = self.pop(), self.pop()
            push(known(f"{module}.{name}" if isinstance(module, str) and isinstance(name, str) else "a name that is no string"))
        elif opcode == "BINPERSID":
            push(storage(self.pop()))
        elif opcode == "REDUCE":
            arguments, function = self.pop(), self.pop()
            push(rebuild(function, arguments))
        elif opcode == "BUILD":  # OrderedDict._metadata, which Module.state_dict() writes: not needed
            self.pop()
            self.top_is(dict)
        elif opcode not in ("PROTO", "FRAME"):
            detail = f" ({shown(argument)})" if isinstance(argument, str | int) else ""
            raise CheckpointError(f"the pickle uses {opcode}{detail}, which a dict of tensors does not need; refused, nothing was run")

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is MARK:
            raise CheckpointError("the index of tensors (data.pkl) is damaged (a mark where a value should be)")
        return value

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def top_is(self, kind: type) -> Any:
        value = self.top()
        if type(value) is not kind:
            raise CheckpointError(f"the pickle fills a {type(value).__name__}, not a dict or a list; refused, nothing was run")
        return value

    def pop_to_mark(self) -> list[Any]:
        items = []
        while (value := self.stack.pop()) is not MARK:
            items.append(value)
        return items[::-1]


def known(name: str) -> Global:
    if name not in KNOWN_NAMES:
        raise CheckpointError(f"the pickle asks for {shown(name)}, which a dict of tensors does not need; refused, nothing was run")
    return Global(name)


def rebuild(function: Any, arguments: Any) -> Any:
    """The result of a REDUCE opcode, for the five calls that a dict of tensors needs. The calls themselves are not made."""
    name = function.name if isinstance(function, Global) else None
    if not isinstance(arguments, tuple):
        raise CheckpointError("the pickle calls something without a tuple of arguments; refused, nothing was run")
    if name == ORDERED_DICT and not arguments:
        return {}
    if name == SIZE and len(arguments) == 1 and is_shape(arguments[0]):  # DeepSpeed saves shapes next to the tensors
        return arguments[0]
    if name == PARAMETER and len(arguments) == 3 and isinstance(arguments[0], StoredTensor):
        return arguments[0]
    if name == TENSOR and len(arguments) in (6, 7):
        return stored_tensor(arguments, arguments[0].dtype if isinstance(arguments[0], Storage) else "")
    if name == TENSOR_V3 and len(arguments) in (7, 8) and isinstance(arguments[6], Global):
        return stored_tensor(arguments, arguments[6].name.removeprefix("torch."))
    called = shown(name or type(function).__name__)
    raise CheckpointError(f"the pickle calls {called} as torch.save does not; refused, nothing was run")


def stored_tensor(arguments: tuple[Any, ...], dtype: str) -> StoredTensor:
    source, offset, shape, strides = arguments[:4]
    if not (isinstance(source, Storage) and type(offset) is int and is_shape(shape) and is_shape(strides)):
        raise CheckpointError("the index of tensors must describe a tensor by a storage, an offset, a shape and strides; it is damaged")
    return StoredTensor(source, dtype, offset, shape, strides)


def storage(identity: Any) -> Storage:
    if not (isinstance(identity, tuple) and len(identity) == 5 and identity[0] == "storage"):
        raise CheckpointError("the index of tensors names a storage in a way that torch.save does not")
    _, kind, key, _, numel = identity
    if not (isinstance(kind, Global) and kind.name in STORAGES and isinstance(key, str) and type(numel) is int):
        raise CheckpointError("the index of tensors names a storage in a way that torch.save does not")
    return Storage(STORAGES[kind.name], key, numel)


def set_items(target: dict[str | int, Any], items: list[Any]) -> None:
    """`items`: key, value, key, value, ... Keys may be numbers, as in an optimizer's state."""
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Other keys are refused, also because hashing tuples of tuples of tuples can take forever.
        if type(key) not in (str, int):
            raise CheckpointError(f"the keys of a dict of tensors are strings; got a {type(key).__name__}")
        if key in target:
            raise CheckpointError(f"the index of tensors names {shown(key)} twice")
        target[key] = value


def is_shape(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) <= MAX_DIMENSIONS and all(type(item) is int for item in value)


def shown(value: str | int) -> str:
    """A string from the file, made short and printable for an error message."""
    return value if isinstance(value, str) and value.isprintable() and len(value) < 100 else reprlib.repr(value)
