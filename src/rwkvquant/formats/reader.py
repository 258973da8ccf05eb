"""Read a packed file (docs/format.md). Everything that is read from it is checked first.

The file is mapped, or copied into memory (pages.py). `open_packed` checks header, table, sizes and the tokenizer, which costs
milliseconds. `PackedFile.verify` checks every byte.
"""

from __future__ import annotations

import zlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkvquant.architectures import QUANTIZED_ROLES, Role
from rwkvquant.architectures.image import ImageSettings, image_summary
from rwkvquant.codecs import PackedTensor, QTensor
from rwkvquant.errors import FormatError
from rwkvquant.formats import strict_json
from rwkvquant.formats.header import Header, decode_header
from rwkvquant.formats.images import KEY as IMAGE
from rwkvquant.formats.images import decode_image
from rwkvquant.formats.ledger import Ledger, make_item
from rwkvquant.formats.model import check_dims, decode_model
from rwkvquant.formats.pages import Contents, hold
from rwkvquant.formats.states import decode_states
from rwkvquant.formats.strict_json import shown
from rwkvquant.formats.table import TensorEntry, decode_table, parse_checksums, transform_array
from rwkvquant.formats.tokenizer_data import TokenizerData
from rwkvquant.transforms import Applied, transform_named

FORMAT = "rwkvquant"
FORMAT_VERSION = "1"
TOKENIZER_PREFIX = "tokenizer."
PRODUCT_ROLES = (*QUANTIZED_ROLES, Role.HEAD)
_CHUNK = 1 << 22  # bytes that verify reads at a time


def open_packed(path: Path | str, pages: str = "map") -> PackedFile:
    """Open a packed file. `pages` "map" reads only what is used; "huge" and "auto" may copy the whole file (pages.py).

    Raises FormatError, which names the file, for one that breaks a rule of docs/format.md, and ConfigError for pages that cannot be had.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise FormatError(f"{path}: is not a file")
    try:
        return PackedFile(path, hold(path, pages))
    except OSError as error:
        raise FormatError(f"{path}: cannot be read: {error.strerror}") from None
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from None


def open_text_packed(path: Path | str, pages: str = "map") -> PackedFile:
    """`open_packed` for what works with text only. Raises FormatError for a model for images too."""
    packed = open_packed(path, pages)
    _ = packed.tokenizer
    return packed


class PackedFile:
    """An open packed file; made by `open_packed`. Arrays are read-only views of `contents`, which live as long as they do.

    `image`: the settings of a model for images, else None.
    """

    def __init__(self, path: Path, contents: Contents) -> None:
        self.path, self.contents = path, contents
        data = contents.data
        self.file_bytes = len(data)
        header = decode_header(data)
        metadata = header.metadata
        self._header, self._data = header, data[header.data_start :]
        _check_version(metadata)
        self.architecture, self.dims = decode_model(_text(metadata, "model"))
        self.arch = self.architecture.name
        self.states = decode_states(self.architecture, metadata)
        self.quantization_config = strict_json.parse_object(_text(metadata, "quantization_config"), "quantization_config")
        if self.quantization_config.get("quant_method") != FORMAT:
            raise FormatError(f"quant_method must be {FORMAT}; got {shown(self.quantization_config.get('quant_method'))}")
        self.provenance = strict_json.parse_object(_text(metadata, "provenance"), "provenance")
        self.tensors: dict[str, TensorEntry] = decode_table(_text(metadata, "tensors"))
        self._tokenizer_checksums: dict[str, int] = {}
        self._tokenizer: TokenizerData | None = None
        self.image: ImageSettings | None = None
        if self.architecture.modality == "image":
            self.image = decode_image(_text(metadata, IMAGE), self.dims)
        else:
            self._tokenizer = self._read_tokenizer(_text(metadata, "tokenizer"))
        _check_claims(header, self.tensors, list(self._tokenizer_checksums))
        check_dims(self.architecture, self.dims, self.tensors)

    @property
    def tokenizer(self) -> TokenizerData:
        """Raises FormatError for a model for images, which has none."""
        if self._tokenizer is None:
            raise FormatError(f"{self.path}: {self.architecture.text_only()}")
        return self._tokenizer

    @property
    def task(self) -> str | None:
        """What the head of a model for images is for: "classify", "segment" or "detect"; None without a head that this version uses."""
        return self.architecture.task_in(self.tensors)

    def entry(self, name: str) -> TensorEntry:
        """Raises FormatError if the file has no such tensor."""
        if name not in self.tensors:
            raise FormatError(f"{self.path}: has no tensor {name}")
        return self.tensors[name]

    def uses(self, name: str) -> bool:
        """Whether the file has this tensor and the forward uses it: what is carried along may have the name of a tensor of ours."""
        return name in self.tensors and self.tensors[name].role != Role.CARRIED

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """suffix -> flat array as the file has it, with padding. Raises FormatError if the file became shorter since it was opened.

        Reading an array of a file that became shorter ends the process (SIGBUS). So callers that keep arrays call `require_whole` before
        each use.
        """
        self.require_whole()
        return {suffix: self._view(f"{name}.{suffix}") for suffix in self.entry(name).checksums}

    def packed(self, name: str) -> PackedTensor:
        """The tensor as the file has it."""
        return PackedTensor(self.entry(name).packing, self.arrays(name))

    def qtensor(self, name: str) -> QTensor:
        """The logical tensor. If a matrix has an input transform, this is the matrix for the transformed input."""
        return self.packed(name).unpack()

    def input_transform(self, name: str) -> Applied:
        """The input transform of a matrix, with its arrays; `none` for most."""
        entry = self.entry(name).input_transform
        return Applied(entry.name, entry.values, {suffix: self._view(transform_array(name, suffix)) for suffix in entry.checksums})

    def decode(self, name: str) -> NDArray[np.float32]:
        """The weights of the checkpoint, float32: decoded, and with their transform undone."""
        return self.input_transform(name).undone(self.qtensor(name).decode())

    def engine_transforms(self, name: str) -> bool:
        """Whether the native engine transforms the input of this matrix. Other transforms are undone in decoded weights."""
        entry = self.entry(name)
        fits = entry.role in PRODUCT_ROLES and entry.has_native_product and not entry.packing.codec.nonnegative_input
        return fits and self.image is None and self.input_transform(name).native(entry.shape[-1]) is not None

    def stored_bytes(self, name: str) -> int:
        """Bytes of the arrays of a tensor and of its transform, with padding."""
        return sum(self._view(array).nbytes for array, _ in self.entry(name).arrays())

    def ledger(self) -> Ledger:
        """What every byte of the file is used for; it adds up to the size of the file."""
        items = tuple(
            make_item(entry.name, entry.role, entry.shape, self.stored_bytes(entry.name), entry.method, entry.layout, entry.extra)
            for entry in self.tensors.values()
        )
        tokenizer = sum(self._view(TOKENIZER_PREFIX + suffix).nbytes for suffix in self._tokenizer_checksums)
        ledger = Ledger(items, tokenizer, self._header.data_start)
        assert ledger.file_bytes == self.file_bytes
        return ledger

    def summary(self) -> dict[str, Any]:
        """What `inspect` shows, as plain JSON."""
        return {
            "file": str(self.path),
            "format_version": FORMAT_VERSION,
            "arch": self.arch,
            "dims": vars(self.dims),
            "tokenizer": self._tokenizer.kind if self._tokenizer else None,
            **({"image": {"task": self.task, **image_summary(self.image, self.dims)}} if self.image else {}),
            "quantization_config": self.quantization_config,
            "provenance": self.provenance,
            "decoded_layouts": self.decoded_layouts(),
            "transforms": self.transforms(),
            **self.ledger().to_json(),
        }

    def transforms(self) -> list[dict[str, Any]]:
        """Name and number of matrices of each input transform, of how many it is undone in the weights, and the operations for a token if
        products with one input share them."""
        shared: dict[str, dict[Any, tuple[int, int]]] = {}
        undone: Counter[str] = Counter()
        for name, entry in self.tensors.items():
            applied = entry.input_transform
            if applied.name == "none":
                continue
            undone[applied.name] += not self.engine_transforms(name)
            layer, key = self.architecture.split(name)
            spec = self.architecture.by_key.get(key)
            of_input = (layer, spec.input if spec and spec.input else name, *sorted(applied.values.items()))
            flops = transform_named(applied.name).flops(entry.shape[-1], applied.values)
            count, _ = shared.setdefault(applied.name, {}).get(of_input, (0, 0))
            shared[applied.name][of_input] = count + 1, flops
        return [
            {
                "name": name,
                "matrices": sum(count for count, _ in inputs.values()),
                "undone": undone[name],
                "flops": sum(flops for _, flops in inputs.values()),
            }
            for name, inputs in shared.items()
        ]

    def decoded_layouts(self) -> list[str]:
        """Layouts of matrices that the engine decodes, to 16 bits a weight where these are exact, else 32: they have no native product, or
        their transform has to be undone."""
        products = (entry for entry in self.tensors.values() if entry.role in PRODUCT_ROLES)
        return sorted({entry.layout for entry in products if not (entry.has_native_product and self._transform_runs(entry.name))})

    def _transform_runs(self, name: str) -> bool:
        return self.entry(name).input_transform.name == "none" or self.engine_transforms(name)

    def verify(self) -> None:
        """Read everything and check it: checksums, finite scales and values, centroids and zeros in range. safetensors must read it too.

        Raises FormatError, which names the file and the tensor.
        """
        self.require_whole()
        try:
            for suffix, checksum in self._tokenizer_checksums.items():
                _check_crc(self._view(TOKENIZER_PREFIX + suffix), checksum, f"tokenizer {suffix}")
            for name, entry in self.tensors.items():
                for array_name, checksum in entry.arrays():
                    suffix = array_name.removeprefix(f"{name}.")
                    _check_crc(self._view(array_name), checksum, f"{name} {suffix}")
                    _check_values(self._view(array_name), suffix, entry)
                _check_transform(self.input_transform(name), entry)
            self._check_with_safetensors()
        except FormatError as error:
            raise FormatError(f"{self.path}: {error}") from None

    def require_whole(self) -> None:
        """Raises FormatError if the file became shorter since it was opened, as when another file is copied over it. Costs a microsecond.

        Not noticed: a file that becomes shorter between this call and the reading, and one that is overwritten at the same length. A copy
        (pages.py) is always whole.
        """
        if not self.contents.is_whole():
            raise FormatError(f"{self.path}: became shorter since it was opened; wait until it is complete, and open it again")

    def _view(self, array_name: str) -> NDArray[Any]:
        stored = self._header.arrays[array_name]
        return np.frombuffer(self._data[stored.begin : stored.end], stored.dtype)

    def _read_tokenizer(self, text: str) -> TokenizerData:
        """{"kind", "meta", "arrays": {suffix: {"bytes", "crc32"}}}; it is small, so its checksums are tested at once."""
        what = "the tokenizer"
        tokenizer = strict_json.parse_object(text, what)
        entries = {suffix: strict_json.typed(v, dict, what) for suffix, v in strict_json.field(tokenizer, "arrays", dict, what).items()}
        self._tokenizer_checksums = parse_checksums({suffix: v.get("crc32") for suffix, v in entries.items()}, what)
        arrays = {}
        for suffix, entry in entries.items():
            name, length = TOKENIZER_PREFIX + suffix, strict_json.field(entry, "bytes", int, what)
            stored = self._header.arrays.get(name)
            if stored is None or stored.dtype != np.uint8 or not 0 <= stored.count - length < 64:
                raise FormatError(f"the tokenizer's {suffix} must be an array of {length} bytes and padding; the file has {stored}")
            _check_crc(self._view(name), self._tokenizer_checksums[suffix], f"tokenizer {suffix}")
            arrays[suffix] = self._view(name)[:length]
        return TokenizerData(strict_json.field(tokenizer, "kind", str, what), strict_json.field(tokenizer, "meta", dict, what), arrays)

    def _check_with_safetensors(self) -> None:
        """A check that shares no code with us: the safetensors library must accept the file and see the same arrays."""
        import safetensors

        try:
            with safetensors.safe_open(self.path, framework="np") as file:
                shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (not a mapping)
        except (safetensors.SafetensorError, OSError) as error:
            raise FormatError(f"the safetensors library refuses the file: {error}") from None
        if shapes != {name: [array.count] for name, array in self._header.arrays.items()}:
            raise FormatError("the safetensors library finds other arrays in the file than its header names")


def _check_version(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise FormatError(f"format must be {FORMAT}; got {shown(metadata.get('format'))}")
    version = metadata.get("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(f"this version of rwkvquant reads format version {FORMAT_VERSION}; the file has {shown(version)}")


def _check_claims(header: Header, tensors: dict[str, TensorEntry], tokenizer: list[str]) -> None:
    """Every array belongs to one tensor or to the tokenizer, and has the type and size that its layout and shape require."""
    claimed = {TOKENIZER_PREFIX + suffix for suffix in tokenizer}
    for entry in tensors.values():
        for array, (dtype, count) in entry.sizes().items():
            stored = header.arrays.get(array)
            suffix = array.removeprefix(f"{entry.name}.")
            if stored is None or array in claimed:
                raise FormatError(f"{entry.name} must have an array {suffix} of its own; the file has none")
            claimed.add(array)
            if (stored.dtype, stored.count) != (dtype, count):
                rule = f"{suffix} of a {entry.layout} tensor of shape {list(entry.shape)} must be {count} x {dtype}"
                raise FormatError(f"[layout] {rule}; got {stored.count} x {stored.dtype} ({entry.name})")
    for name in header.arrays:
        if name not in claimed:
            raise FormatError(f"the array {shown(name)} belongs to no tensor of the table")


def _check_crc(array: NDArray[Any], checksum: int, what: str) -> None:
    raw, crc = array.view(np.uint8), 0
    for start in range(0, raw.size, _CHUNK):
        crc = zlib.crc32(raw[start : start + _CHUNK].data, crc)
    if crc != checksum:
        raise FormatError(f"the checksum of {what} does not match; the file was altered or damaged")


def _check_values(array: NDArray[Any], suffix: str, entry: TensorEntry) -> None:
    codec = entry.packing.codec
    for start in range(0, array.size, _CHUNK):
        part = array[start : start + _CHUNK]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise FormatError(f"{suffix} of {entry.name} must be finite numbers; some are not")
        broken = codec.broken_rule(entry.packing, suffix, part)
        if broken is not None:
            raise FormatError(f"{broken[0]} of {entry.name} must {broken[1]}; some do not")


def _check_transform(applied: Applied, entry: TensorEntry) -> None:
    try:
        applied.transform.check_arrays(applied.values, entry.shape[-1], applied.arrays)
    except FormatError as error:
        raise FormatError(f"input_transform of {entry.name}: {error}") from None


def _text(metadata: dict[str, str], key: str) -> str:
    return strict_json.field(metadata, key, str, "the metadata")
