"""What a codec is: all that the project must know about one way to store weights as codes.

A codec is one object, registered in the file that defines it. It owns its parameters, its layout ids and its keys in the table of a
file, the arrays and their sizes, packing and unpacking, the NumPy product that defines the native one, and random arrays for the
benchmark. What it does not override has a plain default: a new codec begins with `packing`, `packing_of`, `check`, `sizes`, `pack` and
`unpack`, and runs everywhere.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from rwkvquant.codecs.packing import MAX_DIM, Arrays, PackedTensor, Packing
from rwkvquant.codecs.registry import codec_of
from rwkvquant.errors import FormatError
from rwkvquant.kernels.product import dense_product

Array = NDArray[np.float32]
LEAN = 0.2  # the mean of leaning random weights, in deviations


class QTensor(Protocol):
    """A logical tensor: what a quantiser returns. It does not depend on tiles, files or bytes."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def decode(self) -> Array:
        """The weights, float32, defined to the last bit."""
        ...


class CodecConfig:
    """The parameters of a codec, a frozen dataclass. They say what a quantiser should make, before there is a tensor."""

    @property
    def name(self) -> str:
        """The name of the codec."""
        return codec_of(self).name

    @property
    def kind(self) -> str:
        """uniform | codebook: the papers' SQ | VQ."""
        return codec_of(self).kind

    @property
    def code_bits(self) -> int:
        """Bits of a code for each weight."""
        return int(self.bits)  # type: ignore[attr-defined]

    def with_code_bits(self, bits: int) -> CodecConfig:
        """The same parameters with codes of `bits` bits. Raises ConfigError if the codec has no such codes."""
        return dataclasses.replace(self, bits=bits)  # type: ignore[type-var]

    @property
    def nominal_bits(self) -> float:
        """Bits of a weight as the papers count them, without row scales, zeros and padding."""
        return float(self.code_bits)

    def packing(self, shape: tuple[int, ...], rows: bool = False) -> Packing:
        """How a tensor with these parameters is stored in a file. `rows`: in the layout that is read row by row."""
        return codec_of(self).packing(self, tuple(shape), rows)

    def layout(self, shape: tuple[int, ...], rows: bool = False) -> str:
        return self.packing(shape, rows).layout

    def stored_bytes(self, shape: tuple[int, ...], rows: bool = False) -> int:
        """Bytes in the file, with side information and padding, from the shape alone. Raises FormatError for what cannot be stored."""
        return self.packing(shape, rows).stored_bytes

    def to_json(self) -> dict[str, Any]:
        """{"codec": name, parameters...}; `config_from_json` is the inverse."""
        return {"codec": self.name, **dataclasses.asdict(self)}  # type: ignore[call-overload]


@dataclasses.dataclass(frozen=True)
class NativeForm:
    """What the native module gets for a matrix besides its shape and arrays.

    codec: the name of the codec in the native module. numbers: its parameters. int8: whether it multiplies with int8 activations; if not,
    always with float32.
    """

    codec: str
    numbers: Mapping[str, int]
    int8: bool = True

    def arguments(self, packed: PackedTensor) -> dict[str, Any]:
        """The arguments of `native.Matrix`."""
        rows, cols = packed.shape
        numbers = {name: int(number) for name, number in self.numbers.items()}
        return {"codec": self.codec, "rows": rows, "cols": cols, "numbers": numbers, "arrays": dict(packed.arrays)}


class Codec(ABC):
    """One way to store weights. Subclasses set the class variables; `register` an instance."""

    name: ClassVar[str]
    kind: ClassVar[str]  # uniform | codebook | dense: which of the papers' two sorts it is
    config: ClassVar[type[Any]]  # the dataclass of its parameters, a CodecConfig
    tensor: ClassVar[type[Any]]  # the class of its logical tensors
    layouts: ClassVar[tuple[str, ...]]  # ids that a file may hold
    memory_layouts: ClassVar[tuple[str, ...]] = ()  # ids that exist in memory only
    keys: ClassVar[Mapping[str, type[int]]] = {}  # keys of the table besides layout and shape -> their JSON types
    axes: ClassVar[tuple[int, int]] = (2, 2)  # how many axes a tensor has, at least and at most
    nonnegative_input: ClassVar[bool] = False  # True: only for matrices whose input is never negative
    scales_rows: ClassVar[bool] = False  # whether `rows_scaled` is possible
    quantizes: ClassVar[bool] = True  # False: its values are those of the checkpoint, or those as float16

    # In the file

    @abstractmethod
    def packing(self, config: Any, shape: tuple[int, ...], rows: bool) -> Packing:
        """See `CodecConfig.packing`. The result need not be valid: `Packing.sizes` refuses it if it is not."""

    @abstractmethod
    def packing_of(self, tensor: Any) -> Packing:
        """The usual packing of a logical tensor."""

    def alternatives(self, usual: Packing) -> tuple[str, ...]:
        """Other layouts that can hold the same tensor."""
        return ()

    def describe(self, tensor: Any, layout: str | None = None) -> Packing:
        """How a logical tensor is packed. Raises FormatError for a layout that cannot hold it."""
        usual = self.packing_of(tensor)
        if layout in (None, usual.layout):
            return usual
        if layout not in self.alternatives(usual):
            raise FormatError(f"[layout] {layout} does not hold this tensor; {usual.layout} does. Leave the layout out to have it chosen.")
        return dataclasses.replace(usual, layout=str(layout))

    def check_shape(self, packing: Packing) -> None:
        """Raises FormatError for a shape that a tensor of this codec cannot have."""
        least, most = self.axes
        shape = packing.shape
        if not least <= len(shape) <= most or not all(1 <= dim <= MAX_DIM for dim in shape):
            rule = f"{'at most ' if least < most else ''}{most} axes of at least 1"
            raise FormatError(f"[layout] a {packing.layout} tensor has {rule}; got shape {list(shape)[:8]}")

    def check(self, packing: Packing) -> None:  # noqa: B027 (a codec without values has nothing to check)
        """Raises FormatError for values of the table that break a rule of docs/format.md."""

    @abstractmethod
    def sizes(self, packing: Packing) -> dict[str, tuple[Any, int]]:
        """suffix -> (dtype, elements) of each array, without padding. `packing` has passed `check`."""

    @abstractmethod
    def pack(self, packing: Packing, tensor: Any) -> dict[str, NDArray[Any]]:
        """suffix -> flat array, not yet padded to a multiple of 64 bytes."""

    @abstractmethod
    def unpack(self, packing: Packing, arrays: Arrays) -> QTensor:
        """The logical tensor. The arrays have the right types and sizes."""

    def broken_rule(self, packing: Packing, suffix: str, values: NDArray[Any]) -> tuple[str, str] | None:
        """("centroids", "be 0 to 127") if values of a stored array break a rule, else None. The caller checks that floats are finite."""
        return None

    def rows_scaled(self, tensor: Any, factors: Array) -> QTensor:
        """The logical tensor with row r times factors[r], (rows,) float32: codes stay, and what scales them is multiplied and rounded.

        The caller checks that the rounding did no harm (too large a scale becomes infinite). Only where `scales_rows`.
        """
        raise NotImplementedError(f"{self.name} has no scale for each row")

    # In the engines

    def rows(self, packed: PackedTensor, ids: Sequence[int]) -> Array:
        """Rows `ids` of the weights, (len(ids), cols) float32. The default decodes the whole matrix once and keeps it."""
        return packed.decoded[list(ids)]

    def product(self, packed: PackedTensor, x: Array, int8: bool) -> Array:
        """x (count, cols) -> (count, rows): the definition of the native product. The default multiplies decoded weights in float32."""
        return dense_product(packed.decoded, x)

    def native(self, packing: Packing) -> NativeForm | None:
        """What the native module gets, or None if it has no product: then engines get the decoded values (docs/architecture.md)."""
        return None

    def native_rows(self, packing: Packing) -> NativeForm | None:
        """The same for an embedding, which is read row by row."""
        return None

    # In the benchmark

    def random_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float | None) -> dict[str, NDArray[Any]]:
        """Arrays of random weights with about this standard deviation. None is for vectors, with values between 0 and 1."""
        size = 1.0 if deviation is None else deviation
        return {
            suffix: (size * rng.uniform(0.8, 1.2, count)).astype(dtype) if dtype.kind == "f" else random_bytes(rng, dtype, count)
            for suffix, (dtype, count) in packing.sizes().items()
        }

    def leaning_arrays(self, rng: np.random.Generator, packing: Packing, deviation: float) -> dict[str, NDArray[Any]]:
        """The same, but the mean of the weights of every row is a tenth to a half of their deviation, with one sign for all rows.

        So all rows have a common part, which a random model needs whose squared ReLU is mostly zero. The default has no such part.
        """
        return self.random_arrays(rng, packing, deviation)


def random_bytes(rng: np.random.Generator, dtype: np.dtype[Any], count: int, largest: int = 255) -> NDArray[Any]:
    """(count,) random numbers. `largest`, one less than a power of two, is the largest value of each byte."""
    values = np.frombuffer(rng.bytes(count * dtype.itemsize), np.uint8)
    return (values & largest).view(dtype) if largest < 255 else values.view(dtype)
